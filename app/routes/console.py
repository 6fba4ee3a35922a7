"""The built-in page, and the description of the API for people."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from app.errors import Problem

MEDIA_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
PAGES = ("index.html", "console.js", "console.css", "docs.html", "docs.js", "icon.svg")
router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> Response:
    return _file("index.html")


@router.get("/docs")
async def docs() -> Response:
    return _file("docs.html")


@router.get("/favicon.ico")
async def icon() -> Response:
    return _file("icon.svg")


@router.get("/console/{name}")
async def part(name: str) -> Response:
    return _file(name)


def _file(name: str) -> Response:
    if name not in PAGES:
        raise Problem("unknown-route", "the console has no such part")
    content = files("app").joinpath("console", name).read_bytes()
    return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]])
