"""What answers while the old version is gone and the next one is not there yet, on a card that holds only one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from app.errors import not_ready
from app.routing import Loaded, Routing
from app.serving import Serving
from model_store.bundle import Bundle


class _Gone:
    """Stands where a model was: whoever computes with it anyway is told to come back."""

    def __getattr__(self, name: str) -> Any:
        raise not_ready("a version is being swapped", retry_after_s=5)


def without_model(bundle: Bundle) -> Bundle:
    """The catalogue alone: it can name items and tell which are popular. Holds nothing that computes."""
    gone = cast(Any, _Gone())
    return replace(bundle, encoder=gone, index=gone, ranker=None, placer=None, text_tower=None, fallback=None)


def swapped_out(routing: Routing, wanted: str) -> Routing:
    """`routing` with its live version given back, until `wanted` is loaded."""
    bundle = without_model(routing.live.bundle)
    husk = Loaded(bundle, serving=Serving(bundle, routing.live.serving.overlay))
    degraded = f"{wanted} is being loaded; popular items meanwhile"
    return Routing(routing.generation, husk, degraded=degraded, swapping=True)
