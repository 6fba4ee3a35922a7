"""The parts of one running service, by name."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from app.batching import Batcher
from app.errors import Problem
from app.feedback import Feedback
from app.item_changes import ItemChanges
from app.label_hints import LabelHints
from app.metrics import Metrics
from app.recommender import Recommender
from app.settings import Settings
from app.user_history import UserHistories
from app.versions import Versions
from model_store.store import ModelStore


@dataclass(slots=True, eq=False)
class Service:
    """Made when the app starts, gone when it ends. draining: it is about to stop, and says so in /readyz."""

    settings: Settings
    store: ModelStore
    metrics: Metrics
    batcher: Batcher
    versions: Versions
    recommender: Recommender
    histories: UserHistories | None
    hints: LabelHints | None = None
    feedback: Feedback | None = None
    changes: ItemChanges | None = None
    draining: bool = False

    @staticmethod
    def of(request: Request) -> Service:
        service = request.app.state.service
        assert isinstance(service, Service)
        return service

    def need_histories(self) -> UserHistories:
        """Problem `not-possible` when the service runs without them: asking again does not help."""
        if self.histories is None:
            raise Problem("not-possible", "this service runs without histories (NAISEKI_REDIS_URL=none)")
        return self.histories

    def need_feedback(self) -> Feedback:
        """Problem `not-possible` when there is no Redis to count in."""
        if self.feedback is None:
            raise Problem("not-possible", "this service counts no feedback (NAISEKI_REDIS_URL=none)")
        return self.feedback

    def need_items(self) -> ItemChanges:
        """Problem `not-possible` without Redis: an item that vanished with the process would be worse than none."""
        if self.changes is None:
            raise Problem("not-possible", "this service has nowhere to keep a changed item (NAISEKI_REDIS_URL=none)")
        return self.changes

    def not_ready(self) -> str | None:
        """Why nobody should send requests here now; None when all is well."""
        if self.draining:
            return "the service is going away"
        if not self.batcher.alive:
            return self.batcher.broken or "the inference thread is being restarted"
        return None if self.versions.serving is not None else self.versions.why_not_ready()
