from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.app.conftest import Running

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PAGES = ["/", "/docs"]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_needs_nothing_from_elsewhere_and_nothing_inline(http: httpx.Client, page: str) -> None:
    html = http.get(page).text
    parts = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert parts
    for part in parts:
        assert part.startswith("/"), part
        assert http.get(part).status_code == 200, part
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", html)


def test_no_part_speaks_of_other_hosts(http: httpx.Client) -> None:
    for part in ("console.js", "console.css", "docs.js"):
        assert not re.search(r"https?://|innerHTML|eval\(", http.get(f"/console/{part}").text)


@pytest.mark.parametrize("name", ["nothing.js", "..%2fmain.py", "%2e%2e", "%00"])
def test_only_its_own_parts_are_served(http: httpx.Client, name: str) -> None:
    assert http.get(f"/console/{name}").status_code == 404


def drawn(url: str, profile: Path) -> str:
    """The page as a browser has made it of the scripts."""
    assert CHROMIUM is not None
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=8000",
        f"--user-data-dir={profile}",
    ]
    return subprocess.run(
        [CHROMIUM, *options, "--dump-dom", url], capture_output=True, text=True, timeout=120, check=True
    ).stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the console is not drawn")
def test_the_console_in_a_browser(shared: Running, tmp_path: Path) -> None:
    history = ["beta-3", "beta-14"]
    html = drawn(f"{shared.url}/#item={history[0]}&item={history[1]}", tmp_path / "profile")
    answer = shared.http.post("/v1/recommend", json={"history": history}).json()
    shown = html[html.index('id="next"') :]
    places = [shown.index(f">{item['title']}<") for item in answer["items"]]
    assert places == sorted(places), "in the order of the answer"
    assert f"version {answer['version']} (live)" in html
    assert "ms in the service" in html
    remembered = html[html.index('id="history"') : html.index('id="next"')]
    assert [remembered.index(f">Film {row} of beta<") for row in (3, 14)]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page is not drawn")
def test_the_description_in_a_browser(shared: Running, tmp_path: Path) -> None:
    html = drawn(f"{shared.url}/docs", tmp_path / "profile")
    for path in ("/v1/recommend", "/v1/labels/{label}", "/readyz"):
        assert f"</b>{path}</h2>" in html
