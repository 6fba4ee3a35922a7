from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from app.batching import Batcher
from app.errors import Problem
from app.metrics import Metrics
from app.work import Urgency, Work
from model_store.bundle import Bundle


class Script:
    """What the batches of a test do: which were run, which tokens are poison, and a gate that holds the thread."""

    def __init__(self, version: str = "v") -> None:
        self.bundle = cast(Bundle, SimpleNamespace(version=version))
        self.batches: list[list[str]] = []
        self.poison: set[str] = set()
        self.error: type[BaseException] = ValueError
        self.seconds = 0.0
        self.gate = threading.Event()
        self.entered = threading.Event()


@dataclass(frozen=True, slots=True, eq=False)
class Note(Work[str]):
    urgency: ClassVar[Urgency] = Urgency.ANSWER
    name: str
    script: Script

    @classmethod
    def run(cls, bundle: Bundle, batch: Sequence[Work[str]]) -> list[str]:
        notes = [cast(Note, note) for note in batch]
        script = notes[0].script
        script.entered.set()
        assert script.gate.wait(10)
        time.sleep(script.seconds)
        script.batches.append([note.name for note in notes])
        if any(note.name in script.poison for note in notes):
            raise script.error("poison")
        return [note.name.upper() for note in notes]


@dataclass(frozen=True, slots=True, eq=False)
class Shadow(Note):
    urgency: ClassVar[Urgency] = Urgency.SHADOW


@dataclass
class Bench:
    batcher: Batcher
    script: Script = field(default_factory=Script)

    def note(self, name: str, *, tokens: int = 1, key: bytes | None = None, script: Script | None = None) -> Note:
        script = script or self.script
        return Note(script.bundle, tokens, key, name, script)

    async def hold(self) -> asyncio.Task[Any]:
        """The thread is inside a batch and stays there until the gate opens."""
        first = asyncio.ensure_future(self.batcher.submit(self.note("first")))
        await asyncio.to_thread(self.script.entered.wait)
        return first

    async def submit(self, *notes: Note) -> list[asyncio.Task[Any]]:
        tasks = [asyncio.ensure_future(self.batcher.submit(note)) for note in notes]
        await asyncio.sleep(0.01)
        return tasks


def bench(story: Callable[[Bench], Awaitable[None]], **options: Any) -> Metrics:
    metrics = Metrics()

    async def run() -> None:
        # The gate makes batches slow, from which the pace would learn; only the test of the budget wants that.
        batcher = Batcher(metrics, **{"max_batch_seconds": 1e9, **options})
        batcher.start()
        scene = Bench(batcher)
        try:
            await story(scene)
        finally:
            scene.script.gate.set()
            await batcher.close()

    asyncio.run(run())
    return metrics


def value(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(f"naiseki_{name}") or 0.0


def test_what_waits_is_one_batch() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        waiting = await scene.submit(*(scene.note(f"n{i}") for i in range(20)))
        scene.script.gate.set()
        done = await asyncio.gather(first, *waiting)
        assert [one.result for one in done] == ["FIRST", *(f"N{i}" for i in range(20))]
        assert scene.script.batches == [["first"], [f"n{i}" for i in range(20)]]
        assert all(one.queue_seconds > 0 for one in done)

    metrics = bench(story)
    assert value(metrics, "batch_size_count") == 2


def test_entries_of_one_turn_of_the_loop_travel_together() -> None:
    async def story(scene: Bench) -> None:
        scene.script.gate.set()
        await asyncio.gather(*(scene.batcher.submit(scene.note(f"n{i}")) for i in range(50)))
        assert [len(batch) for batch in scene.script.batches] == [50]

    bench(story)


def test_a_batch_holds_one_bundle() -> None:
    async def story(scene: Bench) -> None:
        other = Script("other")
        other.gate.set()
        first = await scene.hold()
        notes = [scene.note("a1"), scene.note("b1", script=other), scene.note("a2"), scene.note("b2", script=other)]
        waiting = await scene.submit(*notes)
        scene.script.gate.set()
        await asyncio.gather(first, *waiting)
        assert scene.script.batches == [["first"], ["a1", "a2"]]
        assert other.batches == [["b1", "b2"]]

    bench(story)


def test_the_token_budget_bounds_a_batch_and_a_longer_entry_runs_alone() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        sizes = [3, 3, 3, 100, 1]
        waiting = await scene.submit(*(scene.note(f"n{i}", tokens=size) for i, size in enumerate(sizes)))
        scene.script.gate.set()
        await asyncio.gather(first, *waiting)
        assert scene.script.batches == [["first"], ["n0", "n1"], ["n2"], ["n3"], ["n4"]]

    bench(story, max_batch_tokens=8)


def test_equal_keys_cost_their_tokens_once() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        waiting = await scene.submit(*(scene.note(f"n{i}", tokens=5, key=b"same") for i in range(4)))
        scene.script.gate.set()
        await asyncio.gather(first, *waiting)
        assert [len(batch) for batch in scene.script.batches] == [1, 4]

    bench(story, max_batch_tokens=8)


def test_urgent_work_goes_first() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        shadow = Shadow(scene.script.bundle, 1, None, "shadow", scene.script)
        waiting = await scene.submit(shadow, scene.note("answer"))
        scene.script.gate.set()
        await asyncio.gather(first, *waiting)
        assert scene.script.batches == [["first"], ["answer"], ["shadow"]]

    bench(story)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        waiting = await scene.submit(scene.note("a", tokens=6), scene.note("b", tokens=4))
        with pytest.raises(Problem) as refused:
            await scene.batcher.submit(scene.note("c"))
        assert refused.value.status == 429
        assert 1 <= int(refused.value.headers["Retry-After"]) <= 60
        scene.script.gate.set()
        await asyncio.gather(first, *waiting)
        assert scene.batcher.waiting_tokens == 0
        assert (await scene.batcher.submit(scene.note("c"))).result == "C"

    metrics = bench(story, queue_tokens=10)
    assert metrics.registry.get_sample_value("naiseki_rejects_total", {"reason": "overloaded"}) == 1


def test_poison_fails_alone() -> None:
    async def story(scene: Bench) -> None:
        scene.script.poison = {"n2"}
        first = await scene.hold()
        waiting = await scene.submit(*(scene.note(f"n{i}") for i in range(4)))
        scene.script.gate.set()
        await first
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert [getattr(one, "result", None) for one in done] == ["N0", "N1", None, "N3"]
        assert isinstance(done[2], ValueError)

    assert value(bench(story), "failed_batches_total") == 1


def test_cancelled_entries_are_never_computed() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        stay, go = await scene.submit(scene.note("stay"), scene.note("go"))
        go.cancel()
        await asyncio.sleep(0)
        scene.script.gate.set()
        await asyncio.gather(first, stay)
        assert scene.script.batches == [["first"], ["stay"]]
        assert scene.batcher.waiting_tokens == 0

    assert value(bench(story), "dropped_entries_total") == 1


def test_an_exception_in_the_thread_itself_starts_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(scene: Bench) -> None:
        scene.script.gate.set()
        with monkeypatch.context() as patch:
            patch.setattr(scene.batcher._runner, "run", broken)
            with pytest.raises(Problem) as refused:
                await scene.batcher.submit(scene.note("lost"))
        assert refused.value.status == 503
        assert (await scene.batcher.submit(scene.note("next"))).result == "NEXT"
        assert scene.batcher.alive

    def broken(batch: object) -> Iterator[Any]:
        raise MemoryError

    assert value(bench(story), "inference_thread_restarts_total") == 1


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_thread_that_was_told_to_exit_is_started_again(error: type[BaseException]) -> None:
    async def story(scene: Bench) -> None:
        scene.script.gate.set()
        scene.script.poison = {"last words"}
        scene.script.error = error
        with pytest.raises(Problem):
            await scene.batcher.submit(scene.note("last words"))
        assert (await scene.batcher.submit(scene.note("next"))).result == "NEXT"

    assert value(bench(story), "inference_thread_restarts_total") == 1


def test_a_thread_that_fails_again_and_again_is_given_up() -> None:
    async def story(scene: Bench) -> None:
        scene.script.gate.set()
        scene.script.poison = {f"n{i}" for i in range(6)}
        scene.script.error = SystemExit
        for i in range(6):
            with pytest.raises(Problem) as refused:
                await scene.batcher.submit(scene.note(f"n{i}"))
            assert refused.value.status == 503
        while scene.batcher.broken is None:
            await asyncio.sleep(0.01)
        assert "failed 6 times" in scene.batcher.broken
        assert not scene.batcher.alive

    assert value(bench(story), "inference_thread_restarts_total") == 6


def test_what_is_not_answered_in_time_is_told_so_and_never_computed() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        started = time.monotonic()
        late = asyncio.ensure_future(scene.batcher.submit(scene.note("late"), deadline=started + 0.05))
        early = asyncio.ensure_future(scene.batcher.submit(scene.note("early"), deadline=started + 60))
        with pytest.raises(Problem) as refused:
            await late
        assert (refused.value.status, refused.value.name) == (504, "deadline")
        assert 0.05 <= time.monotonic() - started < 5, "told at the deadline, while the thread is still busy"
        scene.script.gate.set()
        await asyncio.gather(first, early)
        assert scene.script.batches == [["first"], ["early"]]
        assert scene.batcher.waiting_tokens == 0
        with pytest.raises(Problem) as refused:
            await scene.batcher.submit(scene.note("too late"), deadline=time.monotonic() - 1)
        assert refused.value.status == 504

    metrics = bench(story)
    assert value(metrics, "expired_entries_total") == 1
    assert value(metrics, "dropped_entries_total") == 0
    assert metrics.registry.get_sample_value("naiseki_rejects_total", {"reason": "deadline"}) == 2


def test_an_answer_after_the_deadline_changes_nothing() -> None:
    async def story(scene: Bench) -> None:
        first = asyncio.ensure_future(scene.batcher.submit(scene.note("first"), deadline=time.monotonic() + 0.1))
        await asyncio.to_thread(scene.script.entered.wait)
        with pytest.raises(Problem) as refused:
            await first
        assert refused.value.status == 504
        scene.script.gate.set()
        assert (await scene.batcher.submit(scene.note("next"))).result == "NEXT"

    bench(story)


def test_giving_up_answers_everything_that_waits_and_lets_nothing_in() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        (waiting,) = await scene.submit(scene.note("waiting"))
        arriving = asyncio.ensure_future(scene.batcher.submit(scene.note("arriving")))
        asyncio.get_running_loop().call_soon(scene.batcher.give_up, "it hangs")
        for pending in (first, waiting, arriving):
            with pytest.raises(Problem) as refused:
                await pending
            assert (refused.value.status, refused.value.detail) == (503, "it hangs")
        with pytest.raises(Problem):
            await scene.batcher.submit(scene.note("new"))
        assert not scene.batcher.alive
        scene.script.gate.set()

    bench(story)


def test_closing_refuses_what_waits() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        (waiting,) = await scene.submit(scene.note("late"))
        closing = asyncio.ensure_future(scene.batcher.close())
        await asyncio.sleep(0.01)
        scene.script.gate.set()
        await asyncio.gather(first, closing)
        with pytest.raises(Problem) as refused:
            await waiting
        assert refused.value.status == 503
        with pytest.raises(Problem):
            await scene.batcher.submit(scene.note("later"))

    bench(story)


def test_entries_that_share_a_history_pay_for_what_is_their_own() -> None:
    async def story(scene: Bench) -> None:
        first = await scene.hold()
        notes = [dataclasses.replace(scene.note(f"n{i}", tokens=5, key=b"same"), own_tokens=3) for i in range(4)]
        waiting = await scene.submit(*notes)
        scene.script.gate.set()
        await asyncio.gather(first, *waiting)
        # 5 + 3 fit into eight tokens, a third 3 does not.
        assert scene.script.batches == [["first"], ["n0", "n1"], ["n2", "n3"]]

    metrics = bench(story, max_batch_tokens=8)
    assert value(metrics, "batch_tokens_sum") == 1 + 8 + 8
