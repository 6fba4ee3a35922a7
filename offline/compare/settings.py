"""What one comparison was asked for."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline.datasets.config import BUILT_IN, DataConfig
from offline.run_config import RunConfig, RunRefused
from offline.splits.protocols import PROTOCOLS, Protocol

LONGEST_UNIT = 60.0  # minutes
CLAIM_WORK = ("probe", "order")
# Published figures of Amazon data are leave-one-out; everything else is measured where the error is smallest.
HEADLINES: dict[str, Protocol] = {"amazon-beauty": "leave-one-out"}
# What a run file may say for all arms at once: how items are read, the base model, how long and how fast.
SHARED = ("lm", "prompt", "item_text", "max_text_tokens", "max_history", "fit")


@dataclass(frozen=True, slots=True)
class Settings:
    """data: the data set. headline: the protocol of the warm rows. shared: recipe keys that go for every arm that has
    them. seeds: at most, per arm. minutes: of training, per run. trials: per family. hours: wall clock. report: the
    folder of page, score files and trials. families, arms: what to compare; empty for all. protocols: beside the
    headline; empty for all. without: what the claims ask for beside the rows and is left out (`probe`, `order`).
    """

    data: DataConfig
    headline: Protocol
    shared: dict[str, Any]
    seeds: int
    minutes: float
    trials: int
    hours: float
    jobs: int
    report: Path
    families: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        extra = [name for name in self.without if name not in CLAIM_WORK]
        if extra:
            raise RunRefused(f"--without {', '.join(extra)}: known are {', '.join(CLAIM_WORK)}")
        unknown = [name for name in self.protocols if name not in PROTOCOLS]
        if unknown:
            raise RunRefused(f"--protocols {', '.join(unknown)}: known are {', '.join(PROTOCOLS)}")
        if self.minutes >= LONGEST_UNIT:
            raise RunRefused(
                f"--minutes-per-run {self.minutes:g}: no unit of work may take {LONGEST_UNIT:g} minutes; lower it"
            )

    @property
    def dataset(self) -> str:
        return self.data.name


def data_of(name: str) -> tuple[DataConfig, Protocol, dict[str, Any]]:
    """A built-in name, or a run file: its [data], its protocol, and what its [recipe] says for every arm.

    RunRefused when it is neither.
    """
    if name in BUILT_IN:
        return BUILT_IN[name], HEADLINES.get(name, "last-10"), {}
    if not name.endswith(".toml"):
        raise RunRefused(f"--dataset {name}: neither a run file (.toml) nor one of {', '.join(BUILT_IN)}")
    config = RunConfig.load(Path(name))
    written = tomllib.loads(Path(name).read_text())["recipe"]
    return config.data, config.protocol, {key: written[key] for key in SHARED if key in written}
