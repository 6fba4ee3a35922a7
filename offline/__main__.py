"""python -m offline run | tune | evaluate | compare | compare-versions | data"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from model_store.errors import StoreError
from model_store.store import ModelStore
from offline import datasets
from offline.compare import command as comparison_of_families
from offline.compare.settings import Settings, data_of
from offline.datasets.statistics import describe
from offline.evaluation.version_comparison import (
    EXPERIMENTS,
    as_text,
    is_better,
    order_drops,
    record_final,
    side_by_side,
    verdict,
)
from offline.finishing.final_fit import evaluated_twin
from offline.pipeline import run
from offline.run_config import RunConfig
from offline.splits.protocols import PROTOCOLS, describe_split, fitted_events, split
from offline.training.processes import this_process
from offline.tuning import tune
from offline.workspace import Workspace

logger = logging.getLogger("offline")


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(argv, argparse.Namespace(typed=shlex.join(argv)))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    store = ModelStore(Path(arguments.store).resolve())
    try:
        arguments.command(arguments, store, Workspace.from_environment())
    # RunRefused and DataRefused are ValueErrors; an OSError names the file that cannot be read or written.
    except (StoreError, ValueError, OSError) as error:
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; a run goes on from its last checkpoint when it is started again\n")
        return 130
    return 0


def _run(arguments: argparse.Namespace, store: ModelStore, workspace: Workspace) -> None:
    is_main = this_process().is_main_process
    if not is_main:
        logging.getLogger().setLevel(logging.WARNING)
    config = RunConfig.load(Path(arguments.file))
    for seed in arguments.seeds or [config.recipe.seed]:
        version = run(config.with_seed(seed), store=store, workspace=workspace)
        if is_main:
            _say(f"published {version}")
            if arguments.activate:
                _activate(version, store, workspace, only_if_better=arguments.activate == "if-better")
    this_process().destroy_process_group()


def _activate(version: str, store: ModelStore, workspace: Workspace, *, only_if_better: bool) -> None:
    live = store.labels().live
    if only_if_better and live is not None and live != version:
        # A final fit stands for its twin: it has seen the events that the two would be measured on.
        measured, base = evaluated_twin(version, store), evaluated_twin(live, store)
        table = side_by_side(
            [measured, base],
            base=base,
            subset="validation",
            store=store,
            workspace=workspace,
        )
        _say(verdict(table))
        if not is_better(table.contrasts[0]):
            _say(f"{live} stays live")
            return
    store.activate(version, by="offline run")
    _say(f"{version} is live")


def _tune(arguments: argparse.Namespace, store: ModelStore, workspace: Workspace) -> None:
    config = RunConfig.load(Path(arguments.file))
    trials = tune(config, trials=arguments.trials, jobs=arguments.jobs, store=store, workspace=workspace)
    for trial in trials:
        _say(f"{trial.ndcg10:.4f}  trial {trial.number}  {trial.epochs} epochs  {trial.seconds:.0f} s  {trial.changes}")


def _evaluate(arguments: argparse.Namespace, store: ModelStore, workspace: Workspace) -> None:
    table = side_by_side(
        arguments.references,
        base=arguments.base,
        subset="test" if arguments.final else "validation",
        keep_seen=arguments.keep_seen,
        cheap=arguments.cheap,
        lists=True,
        store=store,
        workspace=workspace,
    )
    _say(as_text(table))
    if arguments.shuffled:
        keep_seen = arguments.keep_seen
        _say("\n" + order_drops(arguments.references, subset=table.subset, keep_seen=keep_seen, store=store))
    if arguments.final:
        record_final(table, f"python -m offline {arguments.typed}", file=Path(arguments.record))


def _compare(arguments: argparse.Namespace, store: ModelStore, workspace: Workspace) -> None:
    data, headline, shared = data_of(arguments.dataset)
    settings = Settings(
        data,
        headline,
        shared,
        seeds=arguments.seeds,
        minutes=arguments.minutes_per_run,
        trials=arguments.trials,
        hours=arguments.hours,
        jobs=arguments.jobs,
        report=Path(arguments.report),
        families=tuple(arguments.families),
        arms=tuple(arguments.arms),
        protocols=tuple(arguments.protocols),
        without=tuple(arguments.without),
    )
    comparison_of_families.compare(
        settings,
        store=store,
        workspace=workspace,
        command=f"python -m offline {arguments.typed}",
        record=Path(arguments.record),
        only_plan=arguments.plan,
        say=_say,
    )


def _compare_versions(arguments: argparse.Namespace, store: ModelStore, workspace: Workspace) -> None:
    table = side_by_side(
        [arguments.first, arguments.second],
        base=arguments.first,
        subset="validation",
        store=store,
        workspace=workspace,
    )
    _say(as_text(table))
    _say("\n" + verdict(table))


def _data(arguments: argparse.Namespace, _store: ModelStore, _workspace: Workspace) -> None:
    config = RunConfig.load(Path(arguments.name)) if arguments.name.endswith(".toml") else None
    interactions = datasets.load(config.data if config else arguments.name)
    protocol = arguments.protocol or (config.protocol if config else "last-10")
    if arguments.export_training_events is None:
        _say(describe(interactions))
        if arguments.protocol:
            _say(describe_split(split(interactions, protocol)))
        return
    kept_E = fitted_events(interactions, protocol)
    pl.DataFrame(
        {
            "user_id": [interactions.user_ids[user] for user in interactions.users[kept_E]],
            "item_id": interactions.items["item_id"].gather(interactions.item_rows[kept_E]),
            "timestamp": [int(time) if time >= 0 else None for time in interactions.times_ms[kept_E]],
        }
    ).write_csv(arguments.export_training_events)
    _say(f"{int(kept_E.sum())} training events in {arguments.export_training_events}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
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
    command.set_defaults(command=_run)

    command = commands.add_parser("tune", help="random search over [tune], chosen on validation; resumes")
    command.add_argument("file")
    command.add_argument("--trials", type=_positive, default=16)
    command.add_argument("--jobs", type=_positive, default=1, help="processes, one thread each")
    command.set_defaults(command=_tune)

    command = commands.add_parser("evaluate", help="versions side by side, from the files that ship")
    command.add_argument("references", nargs="+", help="a version, or run:NAME for all its seeds")
    command.add_argument("--base", help="the reference that the others are contrasted with")
    command.add_argument("--final", action="store_true", help="test events; the look is recorded")
    command.add_argument("--record", default=EXPERIMENTS, metavar="FILE", help="where (default: EXPERIMENTS.md)")
    command.add_argument("--keep-seen", action="store_true", help="items of the history may come back")
    command.add_argument("--cheap", action="store_true", help="popularity, Markov and EASE beside them")
    command.add_argument("--shuffled", action="store_true", help="and how much each loses when histories are shuffled")
    command.set_defaults(command=_evaluate)

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
    command.add_argument("--plan", action="store_true", help="print the plan and its total, and stop")
    command.add_argument(
        "--report", required=True, metavar="DIR", help="page, score files and trials; it resumes there"
    )
    command.add_argument("--record", default=EXPERIMENTS, metavar="FILE", help="where looks at test events are counted")
    command.set_defaults(command=_compare)

    command = commands.add_parser("compare-versions", help="two versions on validation, with a verdict in words")
    command.add_argument("first")
    command.add_argument("second")
    command.set_defaults(command=_compare_versions)

    command = commands.add_parser("data", help="prepare a data set and print its statistics")
    command.add_argument("name", help="a built-in name, or a run file")
    command.add_argument("--export-training-events", metavar="CSV", help="for `python -m app import-events`")
    command.add_argument("--protocol", choices=PROTOCOLS, help="default: the run file's, or last-10")
    command.set_defaults(command=_data)
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


if __name__ == "__main__":
    sys.exit(main())
