"""The check of what pip fetched, with a real pip and wheels made here; and that what is recorded are the pins."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from deploy.download_hashes import check, downloaded, main, record, recorded

REPOSITORY = Path(__file__).parents[2]
WHEEL = "tiny-1.0-py3-none-any.whl"
BUILDS_OF_THEIR_OWN = {"torch", "faiss-gpu"}  # by platform: README
BROUGHT_BY_OTHERS = {"opentelemetry-api", "hf-xet", "valkey"}


def make_wheel(folder: Path, content: str = "") -> Path:
    wheel = folder / WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", content)
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return wheel


def install(folder: Path) -> Path:
    """By a real pip, into a folder of its own; returns its report."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--isolated", "--no-index", "--no-cache-dir"]
    where = ["--find-links", str(folder), "--target", str(folder / "installed"), "--upgrade"]
    subprocess.run([*command, *where, "--report", str(report), "tiny"], check=True, capture_output=True)
    return report


def write_hashes(folder: Path, wheel: Path) -> Path:
    hashes = folder / "constraints.hashes"
    hashes.write_text(f"# comment\n{wheel.name} sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return hashes


def test_what_was_fetched_is_what_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hashes = write_hashes(tmp_path, make_wheel(tmp_path))
    report = install(tmp_path)
    assert check([report], hashes) == 0
    assert capsys.readouterr().out == "1 of 1 downloads are as recorded\n"
    make_wheel(tmp_path, "import os")
    assert check([install(tmp_path)], hashes) == 1
    assert f"{WHEEL} has sha256 " in capsys.readouterr().err


def test_what_is_not_recorded_is_let_in_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_wheel(tmp_path)
    (tmp_path / "empty").write_text("")
    assert check([install(tmp_path)], tmp_path / "empty") == 0
    assert capsys.readouterr().out == f"0 of 1 downloads are as recorded; not recorded: {WHEEL}\n"


def entry(url: str, **info: Any) -> dict[str, Any]:
    return {"download_info": {"url": url, **info}}


def test_reports_of_every_pip_are_understood(tmp_path: Path) -> None:
    entries = [
        entry("https://h/a-1-py3-none-any.whl#sha256=x", archive_info={"hashes": {"sha256": "new"}}),
        entry("https://h/b-1-py3-none-any.whl", archive_info={"hash": "sha256=old"}),
        entry("https://h/torch-2%2Bcpu-cp311-cp311-linux_x86_64.whl", archive_info={}),
        entry("file:///project", dir_info={"editable": True}),
    ]
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"install": entries}))
    assert downloaded([report]) == {
        "a-1-py3-none-any.whl": "new",
        "b-1-py3-none-any.whl": "old",
        "torch-2+cpu-cp311-cp311-linux_x86_64.whl": "",
    }
    (tmp_path / "hashes").write_text("torch-2+cpu-cp311-cp311-linux_x86_64.whl sha256:0\n")
    assert check([report], tmp_path / "hashes") == 0, "no hash proves nothing"
    report.write_text('{"install": []}')
    assert check([report], tmp_path / "hashes") == 0


def test_recording_keeps_other_platforms_of_the_present_pins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = make_wheel(tmp_path)
    (tmp_path / "constraints.txt").write_text("# pins\nTiny==1.0\nother.pkg==2.0\n")
    hashes = tmp_path / "hashes"
    kept = ["other_pkg-2.0-cp311-cp311-macosx_11_0_arm64.whl sha256:1", "other.pkg-2.0.tar.gz sha256:2"]
    hashes.write_text("\n".join([*kept, "other_pkg-1.9-py3-none-any.whl sha256:3", "gone-1.0.tar.gz sha256:4"]) + "\n")
    assert record([install(tmp_path)], hashes, tmp_path / "constraints.txt") == 0
    new = f"{WHEEL} sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
    assert sorted(capsys.readouterr().out.splitlines()) == sorted([*kept, new])


def test_a_wrong_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == main(["dance", "x"]) == 2
    assert "constraints.hashes" in capsys.readouterr().err


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_pin_is_recorded_and_nothing_else() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = {canonical(name): version for name, version in (line.split("==") for line in lines if "==" in line)}
    known = recorded(REPOSITORY / "constraints.hashes")
    files = {canonical(name.split("-")[0]): name.split("-")[1] for name in known}
    assert {name: pins.get(name) for name in files} == files
    assert pins.keys() - files.keys() <= BUILDS_OF_THEIR_OWN | BROUGHT_BY_OTHERS
    assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in known.values())


def test_make_and_the_images_check_every_install() -> None:
    """By an isolated interpreter: a .pth file among the installed ones would else run before it was looked at."""
    checks = "-I -S deploy/download_hashes.py check"
    makefile, dockerfile = ((REPOSITORY / name).read_text() for name in ("Makefile", "Dockerfile"))
    assert checks in makefile
    assert checks in dockerfile
    for text in (makefile, dockerfile.replace("\\\n", " ")):
        installs = re.findall(r"^.* install .*--constraint.*$", text, flags=re.MULTILINE)
        assert len(installs) >= 2
        assert all("--report " in line for line in installs)
