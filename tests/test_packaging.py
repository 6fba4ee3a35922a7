"""Set-up, pins and images: that what is written in one file agrees with what is written in the others."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    exact = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonical(name): version for name, version in exact.items()}


def wanted_names() -> set[str]:
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return {canonical(re.split(r"[^A-Za-z0-9._-]", entry)[0]) for entries in lists for entry in entries}


def test_everything_that_is_asked_for_is_pinned() -> None:
    assert wanted_names() <= set(pins())


def test_torch_is_pinned_for_cpu_and_cuda_builds_alike() -> None:
    assert pins()["torch"] == "2.13.0"
    brought_by_cuda = [name for name in pins() if name.startswith(("nvidia", "triton", "cuda"))]
    assert brought_by_cuda == []


def test_what_is_installed_is_what_is_pinned() -> None:
    pinned = pins()
    installed = {canonical(dist.name): dist.version.split("+")[0] for dist in metadata.distributions()}
    assert {"torch", "fastapi", "transformers"} <= set(installed)
    different = {name: version for name, version in installed.items() if pinned.get(name, version) != version}
    assert different == {}


def test_no_pin_lies_outside_this_project() -> None:
    text = (REPOSITORY / "constraints.txt").read_text()
    assert not re.search(r"@|://|file:|^-e", text, flags=re.MULTILINE)


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # MAKEFLAGS of a make that runs these tests would change what this one does.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=REPOSITORY,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_make_alone_tells_what_there_is() -> None:
    helped = make()
    assert helped.returncode == 0
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, flags=re.MULTILINE)) - {"help"}
    assert targets == set(re.findall(r"^make (\w+)", helped.stdout, flags=re.MULTILINE))


def test_torch_index_is_used_for_torch_alone(tmp_path: Path) -> None:
    planned = make(
        "--dry-run", "demo", f"VENV={tmp_path}/venv", "TORCH_INDEX=https://torch.example/simple", "FAISS=gpu"
    )
    installs = [line for line in planned.stdout.splitlines() if "pip" in line and " install " in line]
    assert len(installs) == 2
    assert installs[0].endswith("--index-url https://torch.example/simple torch")
    assert "--index-url" not in installs[1]
    assert "[gpu,embedded]" in installs[1]
    assert all("--constraint constraints.txt" in line for line in installs)


def test_a_later_command_keeps_the_choice_and_another_choice_exchanges_it(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    venv.mkdir()
    stamp = venv / "naiseki-run.stamp"
    stamp.write_text("gpu https://torch.example/simple\n")
    assert "pip" not in make("--dry-run", "demo", f"VENV={venv}").stdout
    exchanged = make("--dry-run", "demo", f"VENV={venv}", "FAISS=cpu", "TORCH_INDEX=").stdout
    assert "uninstall --quiet --yes torch faiss-cpu faiss-gpu" in exchanged
    assert "[cpu,embedded]" in exchanged


def test_ci_runs_what_a_person_runs() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("exec make test")
    assert "run: .ci/run" in (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text()


@pytest.fixture
def only_old_pythons(tmp_path: Path) -> Path:
    """A PATH on which every Python is a version manager's shim that only complains."""
    for name in ("python3.13", "python3.12", "python3.11", "python3", "python"):
        shim = tmp_path / name
        shim.write_text("#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
        shim.chmod(0o755)
    return tmp_path


def make_venv(folder: Path, *arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    assert bash is not None
    command = [bash, str(REPOSITORY / "deploy" / "make_venv"), str(folder), *arguments]
    return subprocess.run(command, env={"PATH": str(path)}, capture_output=True, text=True, check=False)


def test_without_a_python_the_message_says_what_to_do(tmp_path: Path, only_old_pythons: Path) -> None:
    refused = make_venv(tmp_path / "venv", path=only_old_pythons)
    assert refused.returncode == 1
    assert "no Python >= 3.11 found" in refused.stderr
    assert "PYTHON=" in refused.stderr
    assert not (tmp_path / "venv").exists()


def test_a_named_python_that_does_not_do_is_refused(tmp_path: Path, only_old_pythons: Path) -> None:
    refused = make_venv(tmp_path / "venv", str(only_old_pythons / "python3"), path=only_old_pythons)
    assert refused.returncode == 1
    assert "does not run, or is older than 3.11" in refused.stderr


def stage(name: str) -> str:
    """The text of one stage of the Dockerfile."""
    return re.split(r"^FROM ", DOCKERFILE.split(f" AS {name}\n")[1], flags=re.MULTILINE)[0]


def test_the_served_image_has_no_offline_code_and_the_training_image_no_service() -> None:
    assert re.findall(r"^COPY (\w+) \w+$", stage("serve"), flags=re.MULTILINE) == ["model_store", "app"]
    assert re.findall(r"^COPY (\w+) \w+$", stage("train"), flags=re.MULTILINE) == ["model_store", "offline"]
    assert "COPY . " not in DOCKERFILE


@pytest.mark.parametrize("name", ["serve", "train"])
def test_images_run_without_root(name: str) -> None:
    (made,) = re.findall(
        r"^RUN useradd --system --uid (\d+) --home-dir /nonexistent naiseki", DOCKERFILE, flags=re.MULTILINE
    )
    assert int(made) >= 1000
    assert re.findall(r"^USER (\S+)$", stage(name), flags=re.MULTILINE) == [made]
    after = stage(name).split(f"USER {made}\n")[1]
    assert not re.search(r"^(RUN|COPY|ADD|USER)\b", after, flags=re.MULTILINE), (
        "code belongs to root, and stays as it is"
    )


def test_images_write_to_their_volume_and_to_tmp_alone() -> None:
    """What a read-only root file system leaves: home is /tmp, byte code is made beforehand, the rest is in /data."""
    settings = dict(re.findall(r"^(?:ENV )? *(\w+)=(\S+?)(?: \\)?$", stage("dependencies"), flags=re.MULTILINE))
    assert settings["HOME"] == "/tmp"
    assert settings["PYTHONDONTWRITEBYTECODE"] == "1"
    folders = {name: path for name, path in settings.items() if name.startswith("NAISEKI_")}
    assert set(folders) == {"NAISEKI_STORE", "NAISEKI_DATA", "NAISEKI_CACHE"}
    assert all(path.startswith("/data/") for path in folders.values())
    assert re.search(r"^VOLUME /data$", DOCKERFILE, flags=re.MULTILINE)
    for name in ("serve", "train"):
        assert "python -m compileall" in stage(name)


def test_images_hold_no_secret() -> None:
    assert not re.search(r"(KEY|PASSWORD|TOKEN|SECRET)S?=", DOCKERFILE)
    assert re.findall(r"^ARG (\w+)", DOCKERFILE, flags=re.MULTILINE) == ["FAISS", "TORCH_INDEX"]


def test_the_served_image_looks_after_its_health() -> None:
    assert "HEALTHCHECK" in stage("serve")
    assert "/livez" in stage("serve")
    assert "NAISEKI_STORE=/data/" in DOCKERFILE


def test_images_install_by_the_steps_of_make() -> None:
    """torch first, then the project's extra, both under the constraints."""
    text = DOCKERFILE.replace("\\\n", " ")
    installs = re.findall(r"pip install (.*)", text)
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in line for line in installs)
    assert installs[0].split()[-1] == "torch"
    assert '".[$FAISS]"' in installs[1]


def test_what_the_images_copy_passes_the_ignore_file() -> None:
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source for line in re.findall(r"^COPY (.*)", DOCKERFILE, flags=re.MULTILINE) for source in line.split()[:-1]
    }
    assert copied == allowed


def test_licence_is_the_whole_apache_2() -> None:
    text = (REPOSITORY / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"
