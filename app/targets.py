"""What this process should serve and have in memory, from what the labels want and what it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from app.routing import Loaded, Routing
from app.version_states import VersionState
from model_store.labels import Label, Labels

ONE_ONLY = "NAISEKI_SWAP=resource-preserving keeps one version in memory"


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a process keeps beside the live version. one: nothing at all, so a swap unloads before it loads."""

    previous: bool = True
    one: bool = False


@dataclass(frozen=True, slots=True)
class Targets:
    """Decides, and changes nothing. memory: whole bundles by version. asked: versions that an operator keeps.

    Labels apply independently: what is missing or broken for one of them holds back no other.
    """

    labels: Labels
    serving: Routing | None
    memory: Mapping[str, Loaded]
    asked: Sequence[str]
    failed: Callable[[str], VersionState | None]
    keeping: Keeping = Keeping()

    def routing(self) -> Routing | None:
        """The best that can be served of what is in memory; None when that is nothing."""
        base = self._of_live()
        if base is None or base.swapping:
            return base
        canary, shadow = self._trial("canary"), self._trial("shadow")
        named = (base.live, base.previous, canary, shadow)
        kept = [one for one in map(self._in_memory, self.asked) if one is not None and one not in named]
        return replace(
            base,
            canary=canary,
            traffic=self.labels.canary.traffic if canary is not None and self.labels.canary else 0.0,
            salt=self.labels.salt if canary is not None else "",
            shadow=shadow,
            others=tuple(kept),
        )

    def needed(self) -> list[str]:
        """What should be in memory, most urgent first."""
        labels = self.labels
        wanted = [labels.live]
        if self.serving is None or self.serving.swapping:
            wanted += [labels.last_good, labels.previous] if self._failure(labels.live) else []
        elif not self.keeping.one:
            back = labels.previous if self.keeping.previous and not self.serving.degraded else None
            wanted += [labels.version_of("canary"), back, labels.shadow, *self.asked]
        return list(dict.fromkeys(version for version in wanted if version is not None))

    def missing(self) -> str | None:
        """What to load next."""
        return next((one for one in self.needed() if one not in self.memory and not self.failed(one)), None)

    def serves(self, label: Label) -> bool:
        """Whether this process does what the label wants of it."""
        serving, wanted = self.serving, self.labels.version_of(label)
        if serving is None:
            return False
        if label == "live":
            return serving.live.version == wanted and not serving.degraded
        if label == "previous" and (self.keeping.one or not self.keeping.previous):
            return True
        loaded: Loaded | None = getattr(serving, label)
        traffic = self.labels.canary.traffic if self.labels.canary else 0.0
        return (loaded.version if loaded else None) == wanted and (label != "canary" or serving.traffic == traffic)

    def trouble(self, label: Label) -> str | None:
        """Why what the label wants cannot be served; None when it can, or nobody knows yet."""
        version = self.labels.version_of(label)
        if version is None or (label == "previous" and (self.keeping.one or not self.keeping.previous)):
            return None
        if self.keeping.one and label != "live":
            return ONE_ONLY
        failure = self._failure(version)
        return failure.reason if failure else None

    def _of_live(self) -> Routing | None:
        labels, serving, live = self.labels, self.serving, self._in_memory(self.labels.live)
        if live is not None:
            return Routing(labels.generation, live, self._way_back(live))
        failure = self._failure(labels.live)
        if failure is None:
            return serving
        degraded = f"{labels.live} failed: {failure.reason}"
        if serving is not None and not serving.swapping:
            return replace(serving, degraded=degraded)
        loaded = self._in_memory(labels.last_good) or self._in_memory(labels.previous)
        if loaded is not None:
            return Routing(labels.generation, loaded, degraded=degraded)
        return None if serving is None else replace(serving, degraded=degraded)

    def _way_back(self, live: Loaded) -> Loaded | None:
        """Until the wanted previous is loaded, the one that answered last is a better way back than none."""
        wanted, serving = self.labels.previous, self.serving
        if wanted is None or self.keeping.one or not self.keeping.previous:
            return None
        previous = self._in_memory(wanted)
        if previous is None and serving is not None and not serving.swapping:
            previous = next((one for one in (serving.live, serving.previous) if one and one is not live), None)
        return previous if previous is not live else None

    def _trial(self, label: Label) -> Loaded | None:
        return None if self.keeping.one else self._in_memory(self.labels.version_of(label))

    def _in_memory(self, version: str | None) -> Loaded | None:
        return self.memory.get(version) if version is not None else None

    def _failure(self, version: str | None) -> VersionState | None:
        return self.failed(version) if version is not None else None
