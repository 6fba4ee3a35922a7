"""All score files of a comparison, gathered: arm by arm under the protocols they were measured with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from offline.compare.arm import Arm
from offline.compare.found_versions import FoundVersions, seeds_of
from offline.compare.plan import Plan
from offline.compare.recipes import fingerprint
from offline.compare.scores import ArmScores, Costs, SeedScores, gather, read_meta, score_file
from offline.compare.timing import TimedRows, fingerprints_of
from offline.splits.protocols import Protocol
from offline.splits.sequences import Split


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """warm: arm -> scores under the headline protocol. temporal: the same under `temporal`. cold: draw -> arm ->
    scores. splits: the data that they were measured on. costs: arm -> what a request costs, those of `timed_on` timed
    one after the other there; the others' are of the score files, of whatever machine that was."""

    warm: dict[str, ArmScores]
    temporal: dict[str, ArmScores]
    cold: dict[str, dict[str, ArmScores]]
    splits: Mapping[str, Split]
    costs: Mapping[str, Costs] = field(default_factory=dict)
    timed_on: str = ""
    timed: frozenset[str] = frozenset()

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
    timed_on, timed = TimedRows.read(plan.settings.report).comparable(fingerprints_of(plan, found))
    return Measured(
        costs=_scored_costs(by_protocol[headline]) | dict(timed),
        timed_on=timed_on,
        timed=frozenset(timed),
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


def _scored_costs(warm: Mapping[str, ArmScores]) -> dict[str, Costs]:
    """Means over seeds, of files that were written when costs were measured with the scores."""
    found = {name: [meta.costs for meta in scores.metas if meta.costs is not None] for name, scores in warm.items()}
    return {name: _mean(costs) for name, costs in found.items() if costs}


def _mean(costs: list[Costs]) -> Costs:
    """A figure that one of them lacks, all lack."""
    columns = {name: [getattr(cost, name) for cost in costs] for name in Costs.model_fields}
    means = {name: round(float(np.mean(c)), 3) for name, c in columns.items() if None not in c}
    return Costs.model_validate({name: int(v) if name.endswith("_bytes") else v for name, v in means.items()})


def share_of_new_items(data: Split) -> float:
    """Of test events, those whose target has no training event."""
    return float(np.mean(data.dataset.catalog.popularity[data.test.targets] == 0))
