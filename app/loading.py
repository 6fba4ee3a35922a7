"""From a version in the store to a bundle in memory, without hurting what is being served meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import faiss
import torch

from app.batching import Batcher
from app.collector import collector_paused
from app.light import Light
from app.memory import give_back, shortage
from app.metrics import Metrics
from app.serving import Serving
from app.work import Recommendation
from model_store.bundle import Bundle
from model_store.encoder_files import build_empty
from model_store.encoders.history import HistoryBatch
from model_store.preparing import find_prepared
from model_store.ranker_files import build_empty_ranker
from model_store.retrieval import Want
from model_store.verification import read_manifest

Phase = Literal["LOADING", "VALIDATING", "WARMING"]
NICENESS = 10  # on a core that serves without a pause, 19 would be a hundredth of it, and a load would take minutes
THREADS_ARE_NICE = sys.platform == "linux"  # elsewhere niceness is the whole process's
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
_log = logging.getLogger(__name__)


class LoadFailed(Exception):
    """A version could not be made ready; the message is the reason, for a person."""


class Loader:
    """Loads one version at a time. A bundle belongs to the loader's thread until `load` returns it.

    Everything slow and bound to the interpreter (checksums, merging, shape checks) happens in a child process, because
    a thread that holds the interpreter stalls the event loop; only the child ever reads the weights in the store. A
    copy that an earlier child has made and checked is opened without another.
    """

    def __init__(
        self,
        cache: Path,
        batcher: Batcher,
        metrics: Metrics,
        *,
        device: str,
        load_seconds: float,
        memory_margin: float = 1.1,
    ) -> None:
        self._cache, self._batcher, self._metrics, self._device = cache, batcher, metrics, device
        self._load_seconds, self._memory_margin = load_seconds, memory_margin
        self._child: subprocess.Popen[str] | None = None
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader", initializer=_one_nice_thread)
        self._urgent_thread = ThreadPoolExecutor(1, thread_name_prefix="urgent-loader", initializer=_one_thread)

    async def load(
        self,
        folder: Path,
        enter: Callable[[Phase], None],
        *,
        urgent: bool = False,
        make_room: Callable[[], Awaitable[None]] | None = None,
    ) -> Bundle:
        """Prepares, opens with golden queries, warms. enter: told each phase as it begins. LoadFailed says why.

        urgent: nothing is served yet, so there is nobody to be nice to. make_room: awaited when a checked copy is there
        and before it takes memory; what it raises ends the load.
        """
        # A thread that has become nice may not be able to go back: one of each.
        thread = self._urgent_thread if urgent else self._thread
        run = asyncio.get_running_loop().run_in_executor
        enter("LOADING")
        with self._metrics.load_seconds.labels("prepare").time():
            prepared = await run(thread, self._prepare, folder, urgent)
        if make_room is not None:
            await make_room()
        enter("VALIDATING")
        with self._metrics.load_seconds.labels("open").time():
            bundle = await run(thread, self._open, prepared)
        enter("WARMING")
        with self._metrics.load_seconds.labels("warm").time():
            await run(thread, self._warm, bundle)
        return bundle

    async def release(self, box: list[Any]) -> None:
        """Frees what the box holds on the loader's thread; the caller keeps no other reference."""

        def free() -> None:
            box.clear()
            give_back(self._device)

        await asyncio.get_running_loop().run_in_executor(self._thread, free)

    def abandon(self) -> None:
        """Ends the child of a load that nobody waits for any more; the load then fails."""
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        self._closing = True
        if self._child is not None:
            self._child.kill()
        for thread in (self._thread, self._urgent_thread):
            thread.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, folder: Path, urgent: bool) -> Path:
        if (prepared := find_prepared(folder, self._cache)) is not None:
            return prepared
        nice = [] if urgent or THREADS_ARE_NICE else ["nice", "-n", str(NICENESS)]  # else it has its thread's
        command = [sys.executable, "-m", "model_store.preparing", str(folder), str(self._cache)]
        self._child = subprocess.Popen(
            [*nice, *command],
            stdout=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **ONE_THREAD},
        )
        if self._closing:  # `close` came before there was a child to end
            self._child.kill()
        try:
            output, _ = self._child.communicate(timeout=self._load_seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.communicate()
            raise LoadFailed(f"preparing took longer than {self._load_seconds:.0f} s (NAISEKI_LOAD_SECONDS)") from None
        status, self._child = self._child.returncode, None
        try:
            said = json.loads(output.strip().splitlines()[-1])
            if status == 0:
                return Path(said["folder"])
            raise LoadFailed(str(said["reason"]))
        except (IndexError, KeyError, TypeError, ValueError):
            cure = ": killed, as when memory runs out" if status < 0 else ""
            raise LoadFailed(f"the preparing process ended with status {status}{cure}") from None

    def _open(self, prepared: Path) -> Bundle:
        try:
            short = shortage(read_manifest(prepared), self._device, margin=self._memory_margin)
            if short is not None:
                raise LoadFailed(short)
            with collector_paused():
                build_empty(prepared)  # for its imports: the first language model brings transformers
                build_empty_ranker(prepared)
            return Bundle.open(prepared, self._device)
        except LoadFailed:
            raise
        except Exception as error:  # whatever is wrong with one version must not end what serves another
            _log.exception("a version could not be opened")
            raise LoadFailed(str(error) or type(error).__name__) from error

    def _warm(self, bundle: Bundle) -> None:
        """Runs the sizes that will be met, largest first, and learns how long they take."""
        try:
            bundle.catalog.derive()  # a request should not pay for that
            pace = self._batcher.pace(bundle.version, Recommendation)
            longest = Recommendation.of(bundle, _rows(bundle, bundle.manifest.max_history), Want(10))
            if torch.device(self._device).type == "cpu":
                _run(bundle, longest, 1)  # one measurement tells how many fit into the time that a batch may take
                started = time.perf_counter()
                _run(bundle, longest, 1)
                pace.observe(longest.tokens, time.perf_counter() - started)
            for copies in self._batcher.batch_sizes(longest):
                started = time.perf_counter()
                _run(bundle, longest, copies)
                pace.observe(copies * longest.tokens, time.perf_counter() - started)
            self._warm_light(bundle)
        except Exception as error:  # as above
            _log.exception("a version could not be warmed")
            raise LoadFailed(f"a trial batch failed: {error}") from error

    def _warm_light(self, bundle: Bundle) -> None:
        light = Light.of(Serving.of(bundle), _rows(bundle, bundle.manifest.max_history), Want(10))
        if light is None:
            return
        Light.run(bundle, [light])
        for copies in (1, 16, 1):
            started = time.perf_counter()
            Light.run(bundle, [light] * copies)
            self._batcher.pace(bundle.version, Light).observe(copies * light.tokens, time.perf_counter() - started)


def _run(bundle: Bundle, entry: Recommendation, copies: int) -> None:
    histories = HistoryBatch.of([entry.history] * copies)
    bundle.rank(histories, bundle.search(bundle.encode(histories).vectors_BD, [entry.want] * copies))


def _rows(bundle: Bundle, length: int) -> list[int]:
    return [place % len(bundle.catalog) for place in range(length)]


def _one_nice_thread() -> None:
    """Golden queries and trial batches yield to the requests: with equal rights they would take half of a core from
    them. Linux alone gives each thread a niceness of its own; elsewhere it would be the whole process's.
    """
    _one_thread()
    if THREADS_ARE_NICE:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)


def _one_thread() -> None:
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
