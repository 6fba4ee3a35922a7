"""The parts a trained model hands to the store, and how they become the files of a bundle."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from model_store.adapter import check_adapter
from model_store.catalog import ItemCatalog
from model_store.encoder_files import CONFIG as ENCODER_CONFIG
from model_store.encoder_files import read_encoder, write_encoder
from model_store.encoders.history import HistoryBatch, QueryEncoder
from model_store.fallback_files import check_fallback, write_fallback
from model_store.golden import TOLERANCES, GoldenQueries, choose
from model_store.item_index import ItemIndex
from model_store.item_placer import ItemPlacer
from model_store.manifest import GoldenTolerances, Manifest, Provenance
from model_store.ranker import InterpolatedRanker
from model_store.ranker_files import read_ranker, write_ranker
from model_store.ranker_golden import QUERIES as RANKER_QUERIES
from model_store.ranker_golden import TOLERANCES as RANKER_TOLERANCES
from model_store.ranker_golden import GoldenRanking
from model_store.retrieval import Want
from model_store.text_tower import TextTower
from model_store.text_tower_files import write_text_tower
from model_store.verification import INDEX, ITEMS, record, regular_files

Control = Callable[[HistoryBatch], Tensor]
RankerControl = Callable[[HistoryBatch, Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class BundleParts:
    """What `ModelStore.stage` writes.

    encoder: in the form that is served (merged, cast, eval mode).
    item_vectors_ND: float32, exactly what training scored against.
    golden_histories: 32 whole histories of all lengths, from the training split; of more, 32 are chosen.
    controls: name of a part (adapter, projector, item table) -> the same encode without that part, float32 [B, D];
        golden queries must fail on each of them, else the manifest says that they prove nothing of it.
    ranker: in the form that is served, its weight chosen. ranker_controls: as `controls`, for the ranker's opinions
        float32 [B, K] without a part of it.
    text_tower: by which the item vectors were made of texts; it needs the tokenizer.
    placer: gives items that no training saw a vector by their text, in the space of the item vectors.
    fallback: a light encoder whose query vectors are matched with the same item vectors.
    adapter, ranker_adapter: folders in PEFT format, beside the encoder and beside the ranker. tokenizer: a
        tokenizer.json. base: identity of the base LM.
    """

    family: str
    catalog: ItemCatalog
    encoder: QueryEncoder
    item_vectors_ND: Tensor
    golden_histories: HistoryBatch
    controls: Mapping[str, Control] = field(default_factory=dict)
    ranker: InterpolatedRanker | None = None
    ranker_controls: Mapping[str, RankerControl] = field(default_factory=dict)
    ranker_adapter: Path | None = None
    fallback: QueryEncoder | None = None
    placer: ItemPlacer | None = None
    text_tower: TextTower | None = None
    adapter: Path | None = None
    tokenizer: Path | None = None
    base: str | None = None


def write_parts(
    parts: BundleParts,
    folder: Path,
    *,
    version: str,
    catalogue_at: str,
    provenance: Provenance,
    tolerances: GoldenTolerances | None = None,
) -> Manifest:
    """Writes every file of the bundle but its manifest into the empty `folder`, and returns the manifest.

    ValueError when the parts do not fit each other.
    """
    encoder = parts.encoder
    _check(parts)
    write_encoder(encoder, folder)
    parts.catalog.write(folder / ITEMS)
    ItemIndex.of(parts.item_vectors_ND).write(folder / INDEX)
    if parts.adapter is not None:
        check_adapter(parts.adapter, encoder)
        shutil.copytree(parts.adapter, folder / "adapter")
    if parts.tokenizer is not None:
        shutil.copyfile(parts.tokenizer, folder / "tokenizer.json")
    if parts.ranker is not None:
        write_ranker(parts.ranker, folder)
        if parts.ranker_adapter is not None:
            check_adapter(parts.ranker_adapter, parts.ranker)
            shutil.copytree(parts.ranker_adapter, folder / "ranker/adapter")
    if parts.placer is not None:
        parts.placer.write(folder)
    warnings: list[str] = []
    if parts.text_tower is not None:
        warnings += write_text_tower(parts.text_tower, folder, item_vectors_ND=parts.item_vectors_ND)
    if parts.fallback is not None:
        write_fallback(parts.fallback, parts.golden_histories, folder, index=ItemIndex.read(folder / INDEX))
    dtype = _dtype(encoder)
    tolerances = tolerances or TOLERANCES[dtype]
    warnings += _write_golden(parts, folder, tolerances=tolerances)
    ranker_golden = None
    if parts.ranker is not None:
        ranker_golden = RANKER_TOLERANCES[_dtype(parts.ranker)]
        warnings += _write_golden_ranking(parts, folder, tolerances=ranker_golden)
    files = regular_files(folder)
    mode = stat.S_IMODE((folder / ENCODER_CONFIG).stat().st_mode)
    for file in files.values():
        # safetensors lets nobody but the owner read what it writes, whatever the umask says; who serves is seldom
        # the user who trained.
        file.chmod(mode)
    return Manifest(
        version=version,
        family=parts.family,
        encoder=encoder.config,  # type: ignore[arg-type]  # the union is wider than pydantic's base class
        ranker=None if parts.ranker is None else parts.ranker.config,
        dim=encoder.dim,
        dtype=dtype,
        items=len(parts.catalog),
        catalogue_at=catalogue_at,
        max_history=encoder.max_history,
        jump=encoder.jump,
        files={name: record(file) for name, file in files.items()},
        base=parts.base,
        golden=tolerances,
        ranker_golden=ranker_golden,
        warnings=warnings,
        provenance=provenance,
    )


def _check(parts: BundleParts) -> None:
    if parts.fallback is not None:
        check_fallback(parts.fallback, items=len(parts.catalog), dim=parts.encoder.dim)
    if parts.placer is not None and parts.placer.dim != parts.encoder.dim:
        raise ValueError(f"the placer makes vectors of {parts.placer.dim}, not {parts.encoder.dim}")
    if parts.text_tower is not None and (parts.text_tower.dim != parts.encoder.dim or parts.tokenizer is None):
        raise ValueError(f"a text tower of {parts.text_tower.dim} does not fit: {parts.encoder.dim}, and a tokenizer")
    if parts.ranker is not None and parts.ranker.config.item_count != len(parts.catalog):
        raise ValueError(f"the ranker knows {parts.ranker.config.item_count} items, not {len(parts.catalog)}")
    shape = (len(parts.catalog), parts.encoder.dim)
    if tuple(parts.item_vectors_ND.shape) != shape:
        raise ValueError(f"item vectors have shape {tuple(parts.item_vectors_ND.shape)}, not {shape}")
    if parts.item_vectors_ND.dtype != torch.float32:
        raise ValueError(f"item vectors are {parts.item_vectors_ND.dtype}, not float32")
    if len(parts.golden_histories) == 0 or int(parts.golden_histories.lengths.min()) == 0:
        raise ValueError("golden histories are needed, and none may be empty")
    for part, module in (
        ("encoder", parts.encoder),
        ("ranker", parts.ranker),
        ("fallback", parts.fallback),
    ):
        for name, tensor in ({} if module is None else module.state_dict()).items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"{part}: {name} is not finite")


def _dtype(module: nn.Module) -> Literal["float32", "bfloat16", "float16"]:
    """The coarsest kind of number in it: it decides what can be asked of the golden queries."""
    kinds = {tensor.dtype for tensor in module.state_dict().values()}
    if torch.bfloat16 in kinds:
        return "bfloat16"
    return "float16" if torch.float16 in kinds else "float32"


def _write_golden(parts: BundleParts, folder: Path, *, tolerances: GoldenTolerances) -> list[str]:
    """Records golden queries of the encoder as the files give it back; returns what they do not prove."""
    encoder = read_encoder(folder)
    index = ItemIndex.read(folder / INDEX)
    histories = parts.golden_histories.windowed(encoder.max_history, encoder.jump)
    with torch.inference_mode():
        controls = {name: control(histories).float().cpu() for name, control in parts.controls.items()}
        vectors_QD = encoder(histories).float().cpu()
    chosen = choose(histories, vectors_QD, controls=controls, tolerances=tolerances)
    golden = GoldenQueries.record(encoder, index, histories.select(chosen))
    golden.replay(encoder, index, tolerances=tolerances)
    golden.write(folder)
    return [
        f"The golden queries do not notice when the {name} is missing."
        for name, without_QD in controls.items()
        if golden.mismatch(without_QD[chosen], index, tolerances=tolerances) is None
    ]


def _write_golden_ranking(parts: BundleParts, folder: Path, *, tolerances: GoldenTolerances) -> list[str]:
    """Of the files again: the ranker's opinions of what the bundle's own search finds for a few histories."""
    encoder, ranker, index = read_encoder(folder), read_ranker(folder), ItemIndex.read(folder / INDEX)
    assert ranker is not None
    histories = parts.golden_histories.windowed(encoder.max_history, encoder.jump)
    places = torch.linspace(0, len(histories) - 1, min(RANKER_QUERIES, len(histories))).round().long()
    histories = histories.select(places.tolist())
    with torch.inference_mode():
        vectors_QD = encoder(histories).float().cpu()
    wants = [Want(min(ranker.config.candidates, len(parts.catalog))) for _ in range(len(histories))]
    golden = GoldenRanking.record(ranker, histories, [found.rows for found in index.search(vectors_QD, wants)])
    golden.replay(ranker, tolerances=tolerances)
    golden.write(folder)
    with torch.inference_mode():
        without = {name: control(histories, golden.item_rows_QK) for name, control in parts.ranker_controls.items()}
    return [
        f"The golden rankings do not notice when the {name} is missing."
        for name, opinions_QK in without.items()
        if golden.mismatch(opinions_QK, tolerances=tolerances) is None
    ]
