from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from offline.compare.arms import BY_NAME
from offline.compare.found_versions import FoundVersions
from offline.compare.null_world import null_world
from offline.compare.ordering import order_file, read_order
from offline.compare.scores import ArmScores
from offline.compare.settings import Settings

SettingsOf = Callable[..., Settings]
FoundOf = Callable[[Settings], FoundVersions]


def _kept(found: FoundVersions, seed: int, **version: str) -> None:
    file = order_file(BY_NAME["sasrec"], seed, found)
    file.parent.mkdir(exist_ok=True)
    arrays = {name: np.zeros(4) for name in ("all", "but_last")} | {n: np.array(v) for n, v in version.items()}
    np.savez_compressed(file, allow_pickle=False, **arrays)


def _scored(*versions: str) -> ArmScores:
    scores = null_world(0, users=2, events=2, seeds=len(versions))["sasrec"]
    metas = [meta.model_copy(update={"version": v}) for meta, v in zip(scores.metas, versions, strict=True)]
    return replace(scores, metas=tuple(metas))


def test_shuffled_histories_are_set_against_true_ones_of_the_same_version_alone(
    settings_of: SettingsOf, found_of: FoundOf
) -> None:
    """The same recipe under another budget is another version: what it loses would be counted as lost order."""
    found = found_of(settings_of())
    _kept(found, 0, version="this")
    _kept(found, 1, version="of-a-shorter-training")
    order = read_order({"sasrec": _scored("this", "that")}, found)
    assert order["sasrec"].true_SE.shape == order["sasrec"].all_SE.shape == (1, 4)
    _kept(found, 1)  # from before files said so
    assert read_order({"sasrec": _scored("this", "that")}, found)["sasrec"].all_SE.shape == (2, 4)
