"""Which version of the store is an arm's: by what it was trained from, not by the name of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from model_store.manifest import Manifest
from model_store.store import ModelStore
from offline.compare.arm import Arm
from offline.compare.arms import BY_NAME
from offline.compare.recipes import Changes, run_config, same_recipe
from offline.compare.settings import Settings
from offline.evaluation.version_scores import load_split
from offline.run_config import RunConfig
from offline.splits.protocols import Protocol
from offline.splits.sequences import Split


def seeds_of(arm: Arm, protocol: Protocol, settings: Settings) -> tuple[int, ...]:
    """A draw of cold items has a seed of its own; `temporal` is one look."""
    if protocol == settings.headline:
        return tuple(range(min(arm.seeds, settings.seeds)))
    draw = protocol.rpartition("-")[2]
    return (int(draw) if protocol.startswith("cold-items") and arm.drawn else 0,)


@dataclass(slots=True)
class FoundVersions:
    """The store as this comparison sees it. tuned: family -> what its trials chose. refusals: arm -> why it
    cannot be trained here.
    """

    settings: Settings
    store: ModelStore
    tuned: Mapping[str, Changes]
    refusals: dict[str, str] = field(default_factory=dict)
    _manifests: dict[str, Manifest] = field(default_factory=dict)

    def split(self, protocol: Protocol) -> Split:
        return load_split(self.settings.data, protocol)

    def refresh(self) -> None:
        names = set(self.store.list_names())
        if names != set(self._manifests):
            self._manifests = {manifest.version: manifest for manifest in self.store.list()}

    def parents(self, arm: Arm, protocol: Protocol, seed: int) -> dict[str, str] | None:
        """As the arm names it -> version; None when one of them is not there."""
        found = {}
        for value in arm.parents.values():
            for name in (value,) if isinstance(value, str) else value:
                parent, parent_seed = self.parent_seed(name, protocol, seed)
                version = self.find(parent, protocol, parent_seed)
                if version is None:
                    return None
                found[name] = version
        return found

    def parent_seed(self, name: str, protocol: Protocol, seed: int) -> tuple[Arm, int]:
        """ "sasrec" is the same seed's, "sasrec@1" the next one's; what is not drawn has seed 0 alone."""
        parent, _, offset = name.partition("@")
        arm = BY_NAME[parent]
        seeds = seeds_of(arm, protocol, self.settings)
        if not arm.drawn or protocol != self.settings.headline:
            return arm, seeds[0]
        return arm, (seed + int(offset or 0)) % len(seeds) if offset else min(seed, len(seeds) - 1)

    def config(self, arm: Arm, protocol: Protocol, seed: int) -> RunConfig | None:
        """The run that trains it; None when a parent is not there yet."""
        parents = self.parents(arm, protocol, seed)
        if parents is None:
            return None
        return run_config(
            arm,
            self.settings,
            protocol=protocol,
            seed=seed,
            parents=parents,
            tuned=self.tuned.get(arm.family),
        )

    def find(self, arm: Arm, protocol: Protocol, seed: int) -> str | None:
        """The newest version that was trained on this split as the arm says, whatever its run is called."""
        config = self.config(arm, protocol, seed)
        if config is None:
            return None
        split_fingerprint = self.split(protocol).dataset.split_fingerprint
        made = [
            m.version for m in self._manifests.values() if self._is(m, arm, config, split_fingerprint=split_fingerprint)
        ]
        return max(made, default=None)

    def _is(self, manifest: Manifest, arm: Arm, config: RunConfig, *, split_fingerprint: str) -> bool:
        made = manifest.provenance
        return (
            (manifest.family, made.split_fingerprint, made.seed)
            == (config.family, split_fingerprint, config.recipe.seed)
            and made.parents == config.recipe.parent_references()
            and _exclude_seen(made.data) == config.data.exclude_seen
            and _same_budget(made.recipe, made.train_seconds, self.settings.minutes)
            and same_recipe(made.recipe, config.recipe, without=tuple(arm.parents))
        )


def _exclude_seen(data: Mapping[str, object]) -> bool:
    return bool(data.get("exclude_seen", True))


def _same_budget(recipe: Mapping[str, object], seconds: float, minutes: float) -> bool:
    """Trained under the same bound, or done before either bound."""
    fit = recipe.get("fit")
    bound = fit.get("minutes") if isinstance(fit, Mapping) else None
    return bound == minutes or seconds < 60 * min(bound or minutes, minutes)
