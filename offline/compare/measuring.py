"""What a bundle costs and what its space is like, measured on the files that ship."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.retrieval import Want
from offline.compare.scores import Costs
from offline.splits.sequences import Queries

TIMED = 200  # histories, one by one
WARM_UP = 5
INDEX_FILE = "items.faiss"
NEIGHBOURS = 5
NOTHING = 1e-6


def costs_of(bundle: Bundle, queries: Queries) -> Costs:
    """One thread, one history at a time, without caches: the first 200 validation histories."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        histories = [queries.histories.select([q]) for q in range(min(TIMED, len(queries)))]
        encode = _timed(lambda history: bundle.encode(history), histories)
        request = _timed(lambda history: bundle.retrieve(history, [Want(k=10)]), histories)
    finally:
        torch.set_num_threads(threads)
    files = {name: record.bytes for name, record in bundle.manifest.files.items()}
    modules = [bundle.encoder, *([bundle.ranker] if isinstance(bundle.ranker, nn.Module) else [])]
    state = [tensor for module in modules for tensor in module.state_dict().values()]
    return Costs(
        encode_ms_p50=encode[0],
        encode_ms_p99=encode[1],
        encode_cpu_ms=encode[2],
        request_ms_p50=request[0],
        request_ms_p99=request[1],
        request_cpu_ms=request[2],
        index_bytes=files.get(INDEX_FILE, 0),
        bundle_bytes=sum(files.values()),
        memory_bytes=sum(t.numel() * t.element_size() for t in state) + bundle.index.vectors_ND.nbytes,
        tokens_per_item=_tokens_per_item(bundle, queries.histories),
    )


def _timed(call: Callable[[HistoryBatch], object], histories: list[HistoryBatch]) -> tuple[float, float, float]:
    """p50, p99 and mean CPU time of one call, in ms."""
    for history in histories[:WARM_UP]:
        call(history)
    taken = []
    cpu = time.process_time()
    for history in histories:
        started = time.perf_counter()
        call(history)
        taken.append(1e3 * (time.perf_counter() - started))
    mean = 1e3 * (time.process_time() - cpu) / max(len(histories), 1)
    p50, p99 = np.percentile(taken, [50, 99]) if taken else (0.0, 0.0)
    return round(float(p50), 3), round(float(p99), 3), round(mean, 3)


def _tokens_per_item(bundle: Bundle, histories: HistoryBatch) -> float | None:
    windowed = histories.windowed(bundle.encoder.max_history, bundle.encoder.jump)
    items = int(windowed.lengths.sum())
    return round(sum(bundle.encoder.token_counts(windowed)) / items, 2) if items else None


def neighbours_of(bundle: Bundle) -> dict[str, list[str]]:
    """Title -> titles of the nearest items by cosine, for a popular, a less popular and a rare item."""
    popularity_N = bundle.catalog.popularity
    order = np.lexsort((np.arange(len(popularity_N)), -popularity_N))
    known = order[popularity_N[order] > 0]
    if len(known) <= NEIGHBOURS:
        return {}
    vectors_ND = np.asarray(bundle.index.vectors_ND, dtype=np.float32)
    norms_N = np.linalg.norm(vectors_ND, axis=1)
    unit_ND = vectors_ND / np.where(norms_N > 0, norms_N, 1.0)[:, None]
    titles = bundle.catalog.titles(range(len(vectors_ND)))
    found = {}
    for share in (0.0, 0.1, 0.5):
        row = int(known[int(share * (len(known) - 1))])
        cosines_N = unit_ND @ unit_ND[row]
        cosines_N[row] = -np.inf
        if cosines_N.max() < NOTHING:
            return {}  # item vectors without angles: EASE's, at full rank
        nearest = np.lexsort((np.arange(len(cosines_N)), -cosines_N))[:NEIGHBOURS]
        found[titles[row]] = [titles[n] for n in nearest]
    return found
