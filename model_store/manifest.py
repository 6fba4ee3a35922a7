"""What a bundle says of itself. Written last: a folder with a manifest is a whole bundle."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from model_store.encoders import EncoderConfig
from model_store.rankers import RankerConfig

SCHEMA_VERSION = 1
# Relative, inside the bundle, without dots in front: nothing that `/`, `..` or a hidden file could be made of.
FileName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,7}$", max_length=240)
]
VersionName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class FileRecord(_Part):
    sha256: str
    bytes: int


class GoldenTolerances(_Part):
    """How far replayed golden queries may lie from the recorded ones: 1 - cosine, and relative norm."""

    cosine: float
    norm: float


class Metric(_Part):
    """One figure with everything that it depends on. low, high: 95 % interval over users, or None."""

    dataset: str
    dataset_fingerprint: str
    protocol: str
    subset: Literal["validation", "test"]
    name: str  # ndcg@10, hr@10, ...
    seen_removed: bool
    value: float
    low: float | None = None
    high: float | None = None
    events: int
    users: int
    metrics_of: str | None = None  # the evaluated twin of a `final_fit` bundle


class Provenance(_Part):
    run: str  # name of the run file
    recipe: dict[str, object]
    data: dict[str, object] = {}  # the run file's [data]: how to load the same data again
    seed: int
    dataset: str
    dataset_fingerprint: str
    split_fingerprint: str
    protocol: str
    packages: dict[str, str]
    train_seconds: float
    parents: dict[str, str] = {}
    final_fit_of: str | None = None  # the evaluated twin of a version that was fitted to all events, test events too


class Manifest(_Part):
    schema_version: int = Field(default=SCHEMA_VERSION, alias="schema")
    version: VersionName
    family: str
    encoder: EncoderConfig
    ranker: RankerConfig | None = None
    dim: PositiveInt
    dtype: Literal["float32", "bfloat16", "float16"]
    items: PositiveInt
    catalogue_at: str  # RFC 3339 UTC; overlay records older than this yield to the bundle
    max_history: PositiveInt
    jump: PositiveInt
    files: dict[FileName, FileRecord]
    base: str | None = None  # identity of the base LM (hash of its tensors by name)
    golden: GoldenTolerances
    ranker_golden: GoldenTolerances | None = None
    warnings: list[str] = []  # what staging could not prove, in plain words
    metrics: list[Metric] = []
    provenance: Provenance
