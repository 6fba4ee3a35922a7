"""Whether one more request can be answered in time: what waits, in tokens, against measured tokens per second."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from app.errors import Problem, deadline_passed, overloaded
from app.pace import Pace
from app.work import Urgency, Work

# Of the time left. An estimate errs, and what is answered too late was computed for nothing and delayed the others.
WITHIN = 0.7
Kind = tuple[str, type[Work[Any]]]  # a version, and a kind of work


class _Line:
    """What waits of one kind. Entries with equal keys count their shared tokens once, as their batch will."""

    def __init__(self, urgency: Urgency) -> None:
        self.urgency, self.tokens, self.entries = urgency, 0, 0
        self._keys: Counter[bytes] = Counter()

    def enter(self, work: Work[Any]) -> None:
        shared = work.key is not None and self._keys[work.key] > 0
        self.tokens += work.own_tokens if shared else work.tokens
        self.entries += 1
        if work.key is not None:
            self._keys[work.key] += 1

    def leave(self, work: Work[Any]) -> None:
        if work.key is not None:
            self._keys[work.key] -= 1
        shared = work.key is not None and self._keys[work.key] > 0
        self.tokens -= work.own_tokens if shared else work.tokens
        self.entries -= 1
        if work.key is not None and not shared:
            del self._keys[work.key]

    @property
    def size(self) -> int:
        """An entry counts as a token at least: it costs a search, whoever shares its tokens."""
        return max(self.tokens, self.entries)


class Admission:
    """Entries are counted in by the event loop and out by the inference thread; every method may be called by both."""

    def __init__(self, *, max_batch_tokens: int, max_batch_seconds: float, queue_tokens: int) -> None:
        self._max_batch_tokens, self._max_batch_seconds = max_batch_tokens, max_batch_seconds
        self._queue_tokens = queue_tokens
        self._paces: dict[Kind, Pace] = {}
        self._lines: dict[Kind, _Line] = {}
        self._lock = threading.Lock()
        self._busy_until = 0.0

    def pace(self, version: str, kind: type[Work[Any]]) -> Pace:
        return self._paces.setdefault((version, kind), Pace())

    def pace_of(self, work: Work[Any]) -> Pace:
        return self.pace(*_kind(work))

    def forget(self, version: str) -> None:
        self._paces = {kind: pace for kind, pace in self._paces.items() if kind[0] != version}

    def budget(self, work: Work[Any]) -> int:
        """Tokens of the largest batch that may run.

        A live request waits for one batch of shadow work at most, and that is a small one.
        """
        share = 4 if work.urgency is Urgency.SHADOW else 1
        return self.pace_of(work).budget(self._max_batch_seconds / share, max(1, self._max_batch_tokens // share))

    def enter(self, work: Work[Any]) -> None:
        with self._lock:
            self._lines.setdefault(_kind(work), _Line(work.urgency)).enter(work)

    def leave(self, work: Work[Any]) -> None:
        with self._lock:
            line = self._lines[_kind(work)]
            line.leave(work)
            if not line.entries:
                del self._lines[_kind(work)]

    def busy(self, seconds: float) -> None:
        """A batch begins that is estimated to take so long; 0: it has ended."""
        self._busy_until = time.monotonic() + seconds if seconds else 0.0

    @property
    def waiting_tokens(self) -> int:
        with self._lock:
            return sum(line.tokens for line in self._lines.values())

    def wait_seconds(self, urgency: Urgency = Urgency.SHADOW) -> float:
        """Until the thread will be free for one more entry of this class, as far as is known."""
        return self._wait(urgency, {})

    def refusal(self, work: Work[Any], deadline: float) -> Problem | None:
        """Why this entry should not be let in now; None: let it in.

        With nothing before it, it is: an estimate that nobody tries again would stay wrong for ever.
        """
        return self.refusal_of(_kind(work), work.tokens, deadline)

    def refusal_of(self, kind: Kind, tokens: int, deadline: float) -> Problem | None:
        """As `refusal`, of an entry that is not made yet."""
        urgency = kind[1].urgency
        now = time.monotonic()
        if deadline <= now:
            return deadline_passed()
        before = self._tokens_before(urgency)
        if not before and self._busy_until <= now:
            return None
        wait = self._wait(urgency, {kind: tokens})
        full = before > 0 and before + tokens > self._queue_tokens
        if full or now + wait > deadline - (1 - WITHIN) * (deadline - now):
            return overloaded(wait)
        return None

    def _tokens_before(self, urgency: Urgency) -> int:
        with self._lock:
            return sum(line.size for line in self._lines.values() if line.urgency <= urgency)

    def _wait(self, urgency: Urgency, more: dict[Kind, int]) -> float:
        """Seconds of the batch that runs, and of everything that goes before this class or with it; `more` included."""
        with self._lock:
            tokens = Counter({kind: line.tokens for kind, line in self._lines.items() if line.urgency <= urgency})
        tokens.update(more)
        return max(0.0, self._busy_until - time.monotonic()) + sum(
            self.pace(*kind).seconds_in_batches(count, self._max_batch_seconds, self._max_batch_tokens)
            for kind, count in tokens.items()
        )


def _kind(work: Work[Any]) -> Kind:
    return work.bundle.version, type(work)
