"""All score files of a comparison, gathered: arm by arm under the protocols they were measured with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from offline.compare.arm import Arm
from offline.compare.found_versions import FoundVersions, seeds_of
from offline.compare.plan import Plan
from offline.compare.recipes import fingerprint
from offline.compare.scores import ArmScores, SeedScores, gather, read_meta, score_file
from offline.splits.protocols import Protocol
from offline.splits.sequences import Split


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """warm: arm -> scores under the headline protocol. temporal: the same under `temporal`. cold: draw -> arm ->
    scores. splits: the data that they were measured on."""

    warm: dict[str, ArmScores]
    temporal: dict[str, ArmScores]
    cold: dict[str, dict[str, ArmScores]]
    splits: Mapping[str, Split]

    @property
    def everything(self) -> list[ArmScores]:
        return [s for group in (self.warm, self.temporal, *self.cold.values()) for s in group.values()]


def read_measured(plan: Plan, found: FoundVersions) -> Measured:
    """What is there and is what the plan asks for; files of other recipes, data or budgets are left alone."""
    by_protocol: dict[str, dict[str, ArmScores]] = {}
    for protocol in plan.protocols:
        data = found.split(protocol)
        scores = {arm.name: _read(arm, protocol, plan, found) for arm in plan.arms}
        by_protocol[protocol] = {
            name: gather(files, users_E=data.test.users, weights_E=data.test.weights)
            for name, files in scores.items()
            if files
        }
    headline = plan.settings.headline
    return Measured(
        warm=by_protocol[headline],
        temporal=by_protocol.get("temporal", {}),
        cold={protocol: by_protocol[protocol] for protocol in plan.protocols if protocol.startswith("cold-items")},
        splits={protocol: found.split(protocol) for protocol in plan.protocols},
    )


def _read(arm: Arm, protocol: Protocol, plan: Plan, found: FoundVersions) -> list[SeedScores]:
    settings, files = plan.settings, []
    split_fingerprint = found.split(protocol).dataset.split_fingerprint
    for seed in seeds_of(arm, protocol, settings):
        file = score_file(settings.report / "scores", arm.name, protocol, seed=seed)
        meta = read_meta(file)
        # Before its trials are made a family has no recipe that a file could be of.
        if meta is None or (arm.is_bundle and arm.family not in found.tuned):
            continue
        identity = fingerprint(arm, settings, seed=seed, tuned=found.tuned)
        if meta.is_of(identity, split_fingerprint=split_fingerprint, minutes=settings.minutes):
            files.append(SeedScores.read(file))
    return files


def share_of_new_items(data: Split) -> float:
    """Of test events, those whose target has no training event."""
    return float(np.mean(data.dataset.catalog.popularity[data.test.targets] == 0))
