from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import pytest

from model_store.__main__ import main
from model_store.store import ModelStore

Publish = Callable[..., str]
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(store: ModelStore, capsys: pytest.CaptureFixture[str]) -> Say:
    def said(*arguments: str) -> tuple[int, str, str]:
        code = main(["--store", str(store.root), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return said


def test_an_empty_store(say: Say) -> None:
    assert say("list") == (0, "", "")
    code, out, err = say("activate", "none")
    assert (code, out) == (1, "")
    assert err.startswith("error: there is no store at ")


def test_list_and_labels(say: Say, publish: Publish) -> None:
    first, second = publish(), publish("ease")
    assert say("list") == (0, "".join(f"{name}\n" for name in sorted([first, second])), "")
    assert say("activate", first)[1] == f"live is {first}, previous is none (generation 1)\n"
    assert say("activate", second)[1] == f"live is {second}, previous is {first} (generation 2)\n"
    assert say("rollback")[1] == f"live is {first}, previous is {second} (generation 3)\n"
    assert set(say("list")[1].splitlines()) == {f"{first}\tlive", f"{second}\tprevious"}


def test_labels_of_trials_and_their_audit(say: Say, publish: Publish) -> None:
    first, second = publish(), publish("ease")
    say("activate", first)
    assert say("label", "canary", second, "--traffic", "0.05")[1] == (
        f"live is {first}, previous is none, canary is {second} for 0.05 of the users (generation 2)\n"
    )
    assert say("label", "shadow", second)[1].endswith(f"shadow is {second} (generation 3)\n")
    assert f"{second}\tshadow\tcanary 0.05" in say("list")[1].splitlines()
    assert say("label", "canary", "--remove")[0] == 0
    moves = [line.split("\t") for line in say("audit", "--limit", "2")[1].splitlines()]
    assert [(move[0], *move[3:]) for move in moves] == [
        ("4", "canary", f"{second} -> none"),
        ("3", "shadow", f"none -> {second}"),
    ]
    assert all(move[2].startswith("cli") for move in moves)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("canary", "V"), "a canary needs its share of traffic"),
        (("canary", "V", "--traffic", "7"), "a share between 0 and 1, not 7"),
        (("shadow",), "name a version, or --remove"),
        (("shadow", "V", "--remove"), "name a version, or --remove"),
        (("live", "--remove"), "cannot be without a live version"),
    ],
)
def test_labels_that_are_refused(say: Say, publish: Publish, arguments: tuple[str, ...], reason: str) -> None:
    version = publish()
    code, out, err = say("label", *(version if one == "V" else one for one in arguments))
    assert (code, out) == (1, "")
    assert reason in err
    assert err.count("\n") == 1
    assert say("audit") == (0, "", "")


def test_show(say: Say, publish: Publish) -> None:
    version = publish()
    code, out, _ = say("show", version)
    assert code == 0
    assert json.loads(out)["version"] == version
    assert json.loads(out)["schema"] == 1


def test_verify(say: Say, publish: Publish, store: ModelStore) -> None:
    version = publish()
    assert say("verify", version) == (0, f"{version} is whole, and answers as it did when it was made\n", "")
    (store.folder(version) / "items.faiss").write_bytes(b"")
    code, out, err = say("verify", version)
    assert (code, out) == (1, "")
    assert err.startswith("error: items.faiss has 0 bytes, not ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["show", "verify", "activate"])
def test_an_unknown_version(say: Say, publish: Publish, command: str) -> None:
    publish()
    assert say(command, "../x") == (1, "", "error: there is no version '../x' in the store\n")


def test_rollback_without_previous(say: Say, publish: Publish) -> None:
    publish()
    assert say("rollback") == (1, "", "error: there is no previous version to go back to\n")


def test_prune(say: Say, publish: Publish, store: ModelStore) -> None:
    old, kept = sorted([publish(), publish()])
    assert say("prune", "--keep", "0") == (0, "nothing to remove\n", "")
    past = time.time() - 4000
    os.utime(store.folder(old) / "manifest.json", (past, past))
    assert say("prune", "--keep", "1") == (0, f"removed {old}\n", "")
    assert store.list_names() == [kept]
    assert say("prune", "--keep", "-1")[0] == 1


def test_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["fly"])
    assert "invalid choice" in capsys.readouterr().err


def test_the_store_comes_from_the_environment(
    publish: Publish, store: ModelStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = publish()
    monkeypatch.setenv("NAISEKI_STORE", str(store.root))
    assert main(["list"]) == 0
    assert capsys.readouterr().out == f"{version}\n"


def test_the_default_store_lies_in_the_working_folder(
    publish: Publish, store: ModelStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = publish()
    monkeypatch.delenv("NAISEKI_STORE", raising=False)
    monkeypatch.chdir(store.root.parent)
    (store.root.parent / "model_store").mkdir()
    store.root.rename(store.root.parent / "model_store" / "bundles")
    assert main(["list"]) == 0
    assert capsys.readouterr().out == f"{version}\n"
