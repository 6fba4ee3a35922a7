from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.store import ModelStore
from offline.__main__ import main
from offline.finishing.final_fit import final_of
from offline.finishing.shipping import ship
from offline.pipeline import run
from offline.run_config import RunConfig, RunRefused
from offline.workspace import Workspace

WriteRun = Callable[..., Path]


@pytest.fixture
def made(write_run: WriteRun, store: ModelStore, workspace: Workspace) -> Callable[..., str]:
    return lambda name, family, **recipe: run(
        RunConfig.load(write_run(name, family, **recipe)), store=store, workspace=workspace
    )


def test_a_fusion_ships_with_all_that_it_is_made_of(
    made: Callable[..., str], store: ModelStore, workspace: Workspace
) -> None:
    sasrec = made("sasrec", "sasrec")
    ease = made("ease", "ease", beside='"run:sasrec"', lam='"validation"', tau='"validation"')
    reader = made("reader", "e4srec", items_from='"run:sasrec"', residual="true", branch_drop="1.0")
    both = made("both", "fused", parts='["run:reader", "run:ease"]')
    before = set(store.list_names())
    shipped = store.manifest(ship(both, store=store, workspace=workspace))
    finals = {version: final_of(version, store) for version in (sasrec, ease, reader, both)}
    assert set(store.list_names()) - before == set(finals.values())
    assert shipped.version == finals[both]
    assert shipped.provenance.parents == {"parts[0]": finals[reader], "parts[1]": finals[ease]}
    assert store.manifest(str(finals[reader])).provenance.parents == {"items_from": finals[sasrec]}
    assert {metric.metrics_of for metric in shipped.metrics} == {both}
    assert ship(both, store=store, workspace=workspace) == shipped.version, "once"
    assert ship(shipped.version, store=store, workspace=workspace) == shipped.version
    assert len(store.list_names()) == len(before) + 4


def test_what_cannot_be_fitted_again_is_refused_with_the_way_out(
    made: Callable[..., str], store: ModelStore, workspace: Workspace, tmp_path: Path
) -> None:
    version = made("sasrec", "sasrec")
    with pytest.raises(RunRefused, match=rf"{version}.*workspace, says nothing of best_epoch"):
        ship(version, store=store, workspace=Workspace(tmp_path / "elsewhere"))


def test_it_can_be_typed(
    made: Callable[..., str],
    store: ModelStore,
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NAISEKI_CACHE", str(workspace.folder))
    version = made("ease", "ease", lam="5", tau="1")
    assert main(["--store", str(store.root), "ship", version, "--activate"]) == 0
    assert store.labels().live == final_of(version, store)
    assert f"the final fit of {version}" in capsys.readouterr().out
    assert main(["--store", str(store.root), "ship", "no-such-version"]) == 2
