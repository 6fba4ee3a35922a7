"""What pip has downloaded, held against constraints.hashes: `python -I -S deploy/download_hashes.py check REPORT...`

pip's own --require-hashes knows no choice of torch builds, and wants a hash of every file for every platform. Here a
file that is recorded must have its hash; one that is not (another platform, another build of torch) is named, and let
in. A report is what `pip install --report` wrote. -I -S: nothing that was installed runs before it was looked at.

    python deploy/download_hashes.py record REPORT... > new.hashes     what is recorded of the present pins, and these
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
HASHES = ROOT / "constraints.hashes"
CONSTRAINTS = ROOT / "constraints.txt"
Hashes = dict[str, str]


def downloaded(reports: Sequence[Path]) -> Hashes:
    """File name -> sha256 of everything that pip fetched; what was there before, and the project itself, was not."""
    found: Hashes = {}
    for report in reports:
        for entry in json.loads(report.read_text())["install"]:
            sha256 = _sha256(entry["download_info"])
            if sha256 is not None:
                found[unquote(urlsplit(entry["download_info"]["url"]).path.rpartition("/")[2])] = sha256
    return found


def _sha256(download: Mapping[str, Any]) -> str | None:
    """None for a folder; empty where pip says none."""
    if "archive_info" not in download:
        return None
    archive = download["archive_info"]
    kind, _, older = archive.get("hash", "").partition("=")  # before pip 23.1
    return str(archive.get("hashes", {}).get("sha256", older if kind == "sha256" else ""))


def recorded(file: Path) -> Hashes:
    lines = (line.split() for line in file.read_text().splitlines() if line and not line.startswith("#"))
    return {name: sha256.removeprefix("sha256:") for name, sha256 in lines}


def check(reports: Sequence[Path], file: Path = HASHES) -> int:
    """0, or 1 when a file is another than the recorded one."""
    known, found = recorded(file), downloaded(reports)
    wrong = sorted(name for name, sha256 in found.items() if sha256 and known.get(name, sha256) != sha256)
    unknown = sorted(name for name, sha256 in found.items() if not sha256 or name not in known)
    for name in wrong:
        sys.stderr.write(f"error: {name} has sha256 {found[name]}, and not {known[name]} ({file.name})\n")
    if wrong:
        return 1
    if found:
        more = f"; not recorded: {', '.join(unknown)}" if unknown else ""
        sys.stdout.write(f"{len(found) - len(unknown)} of {len(found)} downloads are as recorded{more}\n")
    return 0


def record(reports: Sequence[Path], file: Path = HASHES, constraints: Path = CONSTRAINTS) -> int:
    """Writes to standard output: files of the present pins, those of other platforms that were recorded before too.

    A local version (torch 2.13.0+cpu) is a build of its own index, and no file of PyPI's.
    """
    pins = {_pin(line) for line in constraints.read_text().splitlines() if "==" in line and not line.startswith("#")}
    files = (recorded(file) if file.exists() else {}) | downloaded(reports)
    for name, sha256 in sorted(files.items(), key=lambda one: one[0].lower()):
        if sha256 and "+" not in name and _named(name) in pins:
            sys.stdout.write(f"{name} sha256:{sha256}\n")
    return 0


def _pin(line: str) -> tuple[str, str]:
    name, _, version = line.strip().partition("==")
    return _canonical(name), version


def _named(file: str) -> tuple[str, str]:
    """Project and version, as a wheel or a source archive is named."""
    stem = file.removesuffix(".tar.gz").removesuffix(".zip")
    parts = file.split("-") if file.endswith(".whl") else list(stem.rpartition("-")[::2])
    return _canonical(parts[0]), parts[1]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(arguments: Sequence[str]) -> int:
    commands = {"check": check, "record": record}
    if len(arguments) < 2 or arguments[0] not in commands:
        sys.stderr.write(__doc__ or "")
        return 2
    return commands[arguments[0]]([Path(argument) for argument in arguments[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
