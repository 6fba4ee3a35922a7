"""What users made of two versions: the canary against live, or any other pair."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from app import keys
from app.comparison import CompareAnswer, compare
from app.errors import Problem
from app.feedback_counts import KEPT_DAYS
from app.routes.wire import answer, problems
from app.service import Service
from model_store.manifest import VersionName

router = APIRouter(prefix="/v1", tags=["models"], dependencies=[Depends(keys.admin)])


@router.get("/compare", response_model=CompareAnswer, responses=problems(403, 404, 409, 503))
async def compare_versions(
    request: Request, a: Annotated[VersionName, Query()], b: Annotated[VersionName, Query()]
) -> Response:
    """`b` against `a` by click-through per user, over all replicas; says whether they can be told apart."""
    feedback = Service.of(request).need_feedback()
    counts = [await feedback.counts(version) for version in (a, b)]
    for version, found in zip((a, b), counts, strict=True):
        if not found:
            raise Problem("unknown-version", f"{version} has answered nothing within the last {KEPT_DAYS} days")
    return answer(await asyncio.to_thread(compare, *counts, names=(a, b), window_s=feedback.window_s))
