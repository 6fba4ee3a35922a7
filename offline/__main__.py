"""python -m offline run | ship | tune | evaluate | compare | compare-versions | data"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from model_store.errors import StoreError
from model_store.store import ModelStore
from offline import datasets
from offline.command_line import Commands, parser
from offline.compare import command as comparison_of_families
from offline.compare.settings import Settings, data_of
from offline.datasets.statistics import describe
from offline.evaluation.comparison_text import as_text, order_drops, verdict
from offline.evaluation.looks_at_test import record_final
from offline.evaluation.version_comparison import is_better, side_by_side
from offline.finishing.final_fit import evaluated_twin
from offline.finishing.shipping import ship
from offline.pipeline import run
from offline.run_config import RunConfig
from offline.splits.protocols import describe_split, fitted_events, split
from offline.training.processes import this_process
from offline.tuning import tune
from offline.workspace import Workspace

logger = logging.getLogger("offline")


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser(COMMANDS).parse_args(argv, argparse.Namespace(typed=shlex.join(argv)))
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


def _ship(arguments: argparse.Namespace, store: ModelStore, workspace: Workspace) -> None:
    version = ship(arguments.version, store=store, workspace=workspace)
    _say(f"published {version}, the final fit of {evaluated_twin(version, store)}")
    if arguments.activate:
        store.activate(version, by="offline ship")
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
        only_page=arguments.page,
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


COMMANDS: Commands = {
    "run": _run,
    "ship": _ship,
    "tune": _tune,
    "evaluate": _evaluate,
    "compare": _compare,
    "compare-versions": _compare_versions,
    "data": _data,
}

if __name__ == "__main__":
    sys.exit(main())
