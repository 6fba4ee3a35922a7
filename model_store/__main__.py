"""python -m model_store list | show V | verify V | activate V | label L [V] | rollback | audit | prune [--keep N]"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from model_store.audit import LabelChange
from model_store.errors import StoreError
from model_store.labels import Label, Labels
from model_store.store import ModelStore

DEFAULT_STORE = "./model_store/bundles"


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 with one line on standard error; argparse ends with 2 for a wrong command line."""
    given = _parser().parse_args(arguments)
    store = ModelStore(Path(given.store))
    try:
        lines = _answer(given, store)
    except (StoreError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_store", description="The versions in a model store.")
    parser.add_argument(
        "--store",
        default=os.environ.get("NAISEKI_STORE") or DEFAULT_STORE,
        help=f"the store's folder (NAISEKI_STORE, else {DEFAULT_STORE})",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="versions with their labels, oldest first")
    for name, text in (
        ("show", "the manifest of a version"),
        ("verify", "check every file and replay the golden queries"),
        ("activate", "label a version live; running services follow"),
    ):
        commands.add_parser(name, help=text).add_argument("version")
    label = commands.add_parser("label", help="give a version a label, or take the label away")
    label.add_argument("label", choices=get_args(Label))
    label.add_argument("version", nargs="?")
    label.add_argument("--remove", action="store_true", help="no version has this label any more")
    label.add_argument("--traffic", type=float, metavar="SHARE", help="of a canary: the share of users, 0 to 1")
    commands.add_parser("rollback", help="swap live and previous")
    audit = commands.add_parser("audit", help="the last moves of labels, newest first")
    audit.add_argument("--limit", type=int, default=20, metavar="N", help="so many (20)")
    prune = commands.add_parser("prune", help="remove old versions that have no label")
    prune.add_argument("--keep", type=int, default=5, metavar="N", help="the last N are kept (5)")
    return parser


def _answer(given: argparse.Namespace, store: ModelStore) -> list[str]:
    match given.command:
        case "list":
            labels = store.labels()
            return ["\t".join([name, *_carried(labels, name)]) for name in store.list_names()]
        case "show":
            return [store.manifest(given.version).model_dump_json(by_alias=True, indent=2)]
        case "verify":
            store.verify(given.version)
            return [f"{given.version} is whole, and answers as it did when it was made"]
        case "activate":
            return [_wanted(store.activate(given.version, by=_user()))]
        case "label":
            if (given.version is None) != given.remove:
                raise ValueError("name a version, or --remove")
            return [_wanted(store.label(given.label, given.version, by=_user(), traffic=given.traffic))]
        case "audit":
            return [_told(change) for change in store.audit(given.limit)]
        case "rollback":
            return [_wanted(store.rollback(by=_user()))]
        case "prune":
            return [f"removed {name}" for name in store.prune(given.keep)] or ["nothing to remove"]
        case _:
            raise AssertionError(given.command)


def _carried(labels: Labels, version: str) -> list[str]:
    carried = [name for name in ("live", "previous", "shadow", "last_good") if getattr(labels, name) == version]
    if labels.canary and labels.canary.version == version:
        carried.append(f"canary {labels.canary.traffic:g}")
    return carried


def _wanted(labels: Labels) -> str:
    said = f"live is {labels.live}, previous is {labels.previous or 'none'}"
    if labels.canary:
        said += f", canary is {labels.canary.version} for {labels.canary.traffic:g} of the users"
    if labels.shadow:
        said += f", shadow is {labels.shadow}"
    return f"{said} (generation {labels.generation})"


def _told(change: LabelChange) -> str:
    share = "" if change.traffic is None else f" {change.traffic:g}"
    moved = f"{change.from_ or 'none'} -> {change.to or 'none'}"
    return "\t".join([str(change.generation), change.at, change.by, change.label + share, moved])


def _user() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return "cli"


if __name__ == "__main__":
    sys.exit(main())
