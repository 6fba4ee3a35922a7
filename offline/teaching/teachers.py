"""Published versions as teachers: read while the student learns, or read once and kept on disk."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model_store.bundle import Bundle
from model_store.encoders.fused import FusedEncoder
from model_store.encoders.history import AllPositions, HistoryBatch, QueryEncoder
from model_store.encoders.weighted_sum import WeightedSumEncoder
from offline.evaluation.full_ranking import query_vectors
from offline.splits.sequences import Queries, SequenceDataset
from offline.teaching.distillation import Distillation, Read
from offline.training.processes import this_process

WEIGHT = 0.5  # of what a teacher says, beside the one right answer
READ_TOGETHER = 64  # windows, each with all its prefixes

logger = logging.getLogger(__name__)


class LiveTeacher:
    """Reads every batch anew, in eval mode: for a teacher that is much cheaper than its student (a SASRec).

    encoder: reads all positions, and at least as many items as the student's windows have.
    """

    def __init__(self, encoder: QueryEncoder, items_ND: Tensor) -> None:
        assert isinstance(encoder, AllPositions)
        self._encoder = encoder.eval().requires_grad_(False)
        self.items_ND = items_ND

    @torch.no_grad()
    def read(self, inputs: HistoryBatch) -> Read:
        vectors_TD: Tensor = self._encoder.forward_positions(inputs)
        return Read(torch.arange(len(inputs.rows)), vectors_TD)


class CachedTeacher:
    """Query vectors after every item of fixed training windows, read once, kept in a file and mapped from there.

    A language model that gives one vector per history (bidirectional, with a suffix) has read the windows' ends alone.
    """

    def __init__(self, windows: HistoryBatch, vectors_XD: np.memmap, items_ND: Tensor, *, ends_only: bool) -> None:
        self._vectors_XD = vectors_XD
        self.items_ND = items_ND
        self._ends_only = ends_only
        # What a teacher answers is a function of what it read: windows that are alike may share their vectors.
        inputs = _inputs(windows)
        starts = range(len(inputs)) if ends_only else inputs.offsets[:-1].tolist()
        self._starts = {_key(inputs, b): start for b, start in enumerate(starts)}

    @classmethod
    def of(cls, bundle: Bundle, windows: HistoryBatch, *, dataset: SequenceDataset, checkpoints: Path) -> CachedTeacher:
        """Reads the windows where `checkpoints` does not hold them yet. ValueError for a teacher of other items."""
        check_items(bundle, dataset)
        ends_only = not _reads_prefixes(bundle.encoder)
        file = checkpoints / "checkpoint-teacher" / "vectors.npy"
        with this_process().main_process_first():
            if not file.exists():
                logger.info("%s reads %d windows", bundle.version, len(windows))
                file.parent.mkdir(parents=True, exist_ok=True)
                fresh = file.with_suffix(".new")
                _write(bundle, windows, fresh, ends_only=ends_only)
                fresh.rename(file)
        vectors_XD = np.lib.format.open_memmap(file, mode="r")
        items_ND = torch.from_numpy(bundle.index.vectors_ND).clone()
        return cls(windows, vectors_XD, items_ND, ends_only=ends_only)

    def read(self, inputs: HistoryBatch) -> Read:
        """Of windows that it has read; KeyError for others."""
        positions, found = [], []
        for b in range(len(inputs)):
            start = self._starts[_key(inputs, b)]
            first, end = int(inputs.offsets[b]), int(inputs.offsets[b + 1])
            read = 1 if self._ends_only else end - first
            positions.append(torch.arange(end - read, end))
            found.append(torch.from_numpy(np.array(self._vectors_XD[start : start + read])))
        return Read(torch.cat(positions), torch.cat(found))


def check_teaching(teacher: str | None, weight: float) -> None:
    """For a recipe's validator. ValueError for a weight of nothing."""
    # Not "was it written": a recipe that a manifest gives back names every key.
    if teacher is None and weight != WEIGHT:
        raise ValueError(
            f"distillation = {weight} weighs what a teacher says, and teacher names none: set teacher to a version, "
            "or leave distillation out"
        )


def taught_by(
    bundle: Bundle | None, windows: HistoryBatch, *, dataset: SequenceDataset, weight: float, checkpoints: Path
) -> Distillation | None:
    """What a published version teaches a student of these windows; None without one."""
    if bundle is None:
        return None
    teacher = CachedTeacher.of(bundle, windows, dataset=dataset, checkpoints=checkpoints)
    return Distillation(teacher, weight=weight, allowed_N=torch.from_numpy(dataset.trained_items))


def check_items(teacher: Bundle, dataset: SequenceDataset) -> None:
    """ValueError unless row i is the same item on both sides."""
    if teacher.catalog.ids != dataset.catalog.ids:
        raise ValueError(f"teacher {teacher.version} scores other items than these: it cannot teach their order")


def _reads_prefixes(encoder: QueryEncoder) -> bool:
    """Whether a vector after every item costs no more than about one pass: in one pass, or by a sum."""
    if isinstance(encoder, FusedEncoder):
        return all(map(_reads_prefixes, encoder.encoders))
    return isinstance(encoder, AllPositions | WeightedSumEncoder)


def _write(bundle: Bundle, windows: HistoryBatch, file: Path, *, ends_only: bool) -> None:
    inputs = _inputs(windows)
    total = len(inputs) if ends_only else len(inputs.rows)
    vectors_XD = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(total, bundle.manifest.dim))
    done = 0
    for part in torch.split(torch.arange(len(inputs)), READ_TOGETHER):
        queries = _prefixes(inputs.select(part.tolist()), ends_only=ends_only)
        vectors_XD[done : done + len(queries)] = query_vectors(bundle, queries).numpy()
        done += len(queries)
    vectors_XD.flush()


def _prefixes(inputs: HistoryBatch, *, ends_only: bool) -> Queries:
    histories = [inputs.history(b) for b in range(len(inputs))]
    pieces = [
        (b, history[:end])
        for b, history in enumerate(histories)
        for end in range(len(history) if ends_only else 1, len(history) + 1)
    ]
    users = np.array([b for b, _ in pieces], dtype=np.int32)
    return Queries(HistoryBatch.of([piece for _, piece in pieces]), np.zeros(len(pieces), dtype=np.int32), users)


def _inputs(windows: HistoryBatch) -> HistoryBatch:
    return HistoryBatch.of([windows.history(b)[:-1] for b in range(len(windows))])


def _key(inputs: HistoryBatch, b: int) -> bytes:
    return hashlib.blake2b(inputs.history(b).numpy().tobytes(), digest_size=16).digest()
