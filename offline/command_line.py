"""What can be typed after `python -m offline`."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping

from model_store.store import ModelStore
from offline.evaluation.looks_at_test import EXPERIMENTS
from offline.splits.protocols import PROTOCOLS
from offline.workspace import Workspace

Commands = Mapping[str, Callable[[argparse.Namespace, ModelStore, Workspace], None]]


def parser(run: Commands) -> argparse.ArgumentParser:
    """run: what each command does."""
    parser = argparse.ArgumentParser(prog="python -m offline", description="Train, tune, measure; publish versions.")
    parser.add_argument("--store", default=os.environ.get("NAISEKI_STORE", "model_store/bundles"))
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("run", help="train what a run file says, measure it on validation, publish it")
    command.add_argument("file")
    command.add_argument("--seeds", type=_seeds, help="one version per seed: 0-4, or 0,2,5; default: the file's own")
    command.add_argument(
        "--activate",
        nargs="?",
        const="always",
        choices=["always", "if-better"],
        help="label the version live; if-better: only when its validation interval lies above the live version's",
    )
    command.set_defaults(command=run["run"])

    command = commands.add_parser("ship", help="a measured version and its parents, fitted again to every event")
    command.add_argument("version")
    command.add_argument("--activate", action="store_true", help="label what ships live; running services follow")
    command.set_defaults(command=run["ship"])

    command = commands.add_parser("tune", help="random search over [tune], chosen on validation; resumes")
    command.add_argument("file")
    command.add_argument("--trials", type=_positive, default=16)
    command.add_argument("--jobs", type=_positive, default=1, help="processes, one thread each")
    command.set_defaults(command=run["tune"])

    command = commands.add_parser("evaluate", help="versions side by side, from the files that ship")
    command.add_argument("references", nargs="+", help="a version, or run:NAME for all its seeds")
    command.add_argument("--base", help="the reference that the others are contrasted with")
    command.add_argument("--final", action="store_true", help="test events; the look is recorded")
    command.add_argument("--record", default=EXPERIMENTS, metavar="FILE", help="where (default: EXPERIMENTS.md)")
    command.add_argument("--keep-seen", action="store_true", help="items of the history may come back")
    command.add_argument("--cheap", action="store_true", help="popularity, Markov and EASE beside them")
    command.add_argument("--shuffled", action="store_true", help="and how much each loses when histories are shuffled")
    command.set_defaults(command=run["evaluate"])

    command = commands.add_parser(
        "compare", help="all families with equal budgets, and the page that says which; resumes"
    )
    command.add_argument("--dataset", required=True, help="a built-in name, or a run file with [data]")
    command.add_argument("--families", type=_names, default=(), help="a,b: only these, their parents and the baselines")
    command.add_argument(
        "--arms", type=_names, default=(), help="a,b: only these rows, their parents and the baselines"
    )
    command.add_argument("--without", type=_names, default=(), help="leave out what some claims need: probe,order")
    command.add_argument("--protocols", type=_names, default=(), help="a,b: only these beside the headline's")
    command.add_argument("--seeds", type=_positive, default=5, help="at most, per row")
    command.add_argument("--minutes-per-run", type=_above_zero, default=10.0, help="of training, for every family")
    command.add_argument("--trials", type=_positive, default=8, help="per family, 2 minutes each; 1: none")
    command.add_argument("--hours", type=_above_zero, default=8.0, help="refused when the plan is longer")
    command.add_argument("--jobs", type=_positive, default=2, help="processes, one thread each")
    only = command.add_mutually_exclusive_group()
    only.add_argument("--plan", action="store_true", help="print the plan and its total, and stop")
    only.add_argument("--page", action="store_true", help="write the page from what has been measured, and stop")
    command.add_argument(
        "--report", required=True, metavar="DIR", help="page, score files and trials; it resumes there"
    )
    command.add_argument("--record", default=EXPERIMENTS, metavar="FILE", help="where looks at test events are counted")
    command.set_defaults(command=run["compare"])

    command = commands.add_parser("compare-versions", help="two versions on validation, with a verdict in words")
    command.add_argument("first")
    command.add_argument("second")
    command.set_defaults(command=run["compare-versions"])

    command = commands.add_parser("data", help="prepare a data set and print its statistics")
    command.add_argument("name", help="a built-in name, or a run file")
    command.add_argument("--export-training-events", metavar="CSV", help="for `python -m app import-events`")
    command.add_argument("--protocol", choices=PROTOCOLS, help="default: the run file's, or last-10")
    command.set_defaults(command=run["data"])
    return parser


def _seeds(text: str) -> list[int]:
    if not re.fullmatch(r"\d+-\d+|\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither like 0-4 nor like 0,2,5")
    if "," in text or "-" not in text:
        return [int(part) for part in text.split(",")]
    first, last = map(int, text.split("-"))
    if first > last:
        raise argparse.ArgumentTypeError(f"{text}: the first is above the last")
    return list(range(first, last + 1))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)
