"""What answers about versions and labels say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from model_store.audit import LabelChange


@dataclass(frozen=True, slots=True)
class CanaryOut:
    """traffic: share of the users, 0 to 1."""

    version: str
    traffic: float


@dataclass(frozen=True, slots=True)
class ServingOut:
    """What this process serves. generation: of the labels that it fulfils.

    swapping: popular items only, until the next version is loaded. loaded: kept by an operator, under no label.
    failed: why what a label wants is not served, by label.
    """

    generation: int
    live: str
    previous: str | None
    degraded: str | None
    canary: CanaryOut | None = None
    shadow: str | None = None
    loaded: list[str] = field(default_factory=list)
    swapping: bool = False
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelAnswer:
    wanted: dict[str, Any]
    serving: ServingOut | None


@dataclass(frozen=True, slots=True)
class ProgressOut:
    """seconds: in this phase of the load. load_seconds: since the load began."""

    phase: str
    seconds: float
    load_seconds: float


@dataclass(frozen=True, slots=True)
class ModelOut:
    """state, reason: in this process, since (seconds since 1970). bytes: on disk; memory_bytes: in memory, None where
    it is not loaded. progress: of a load under way. load_seconds: how long the last one took. metrics: as the manifest
    holds them.
    """

    version: str
    family: str
    encoder: str
    dim: int
    items: int
    max_history: int
    base: str | None
    bytes: int
    catalogue_at: str
    labels: list[str]
    state: str
    reason: str | None
    warnings: list[str]
    metrics: list[dict[str, Any]]
    since: float
    memory_bytes: int | None = None
    progress: ProgressOut | None = None
    load_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ModelsAnswer:
    models: list[ModelOut]
    wanted: dict[str, Any]
    serving: ServingOut | None


@dataclass(frozen=True, slots=True)
class LoadAnswer:
    """Where a version stands in this process. memory_bytes: None where it is not in memory."""

    version: str
    state: str
    reason: str | None
    memory_bytes: int | None
    progress: ProgressOut | None


@dataclass(frozen=True, slots=True)
class AuditAnswer:
    """Newest first."""

    changes: list[LabelChange]
