from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from model_store.store import ModelStore
from offline.evaluation.full_ranking import evaluate, query_vectors
from offline.evaluation.shuffled import _vectors, shuffle_histories
from offline.evaluation.version_scores import split_of
from offline.families.fused import Recipe
from offline.pipeline import find_version, run
from offline.run_config import RunConfig, RunRefused
from offline.workspace import Workspace

WriteRun = Callable[..., Path]


@pytest.fixture
def publish(write_run: WriteRun, store: ModelStore, workspace: Workspace) -> Callable[..., str]:
    def published(name: str, family: str, *, run_seed: int = 0, **recipe: str) -> str:
        config = RunConfig.load(write_run(name, family, **recipe)).with_seed(run_seed)
        return run(config, store=store, workspace=workspace)

    return published


def test_two_versions_become_one_search(publish: Callable[..., str], store: ModelStore) -> None:
    ease, sasrec = publish("ease", "ease", lam="5", tau="1"), publish("sasrec", "sasrec")
    fused = publish("both", "fused", parts='["run:ease", "run:sasrec"]')
    manifest = store.manifest(fused)
    assert manifest.provenance.parents == {"parts[0]": ease, "parts[1]": sasrec}
    assert manifest.warnings == []  # the golden queries notice when either part is missing
    bundles = [store.open(version) for version in (ease, sasrec, fused)]
    test = split_of(manifest).test
    vectors = [query_vectors(bundle, test) for bundle in bundles]
    parts = [
        v.double() @ torch.from_numpy(b.index.vectors_ND).double().T for v, b in zip(vectors, bundles, strict=True)
    ]
    weights = bundles[2].encoder.config.weights  # type: ignore[attr-defined]
    torch.testing.assert_close(parts[2], weights[0] * parts[0] + weights[1] * parts[1], rtol=1e-4, atol=1e-4)
    # Part by part, and as the service encodes.
    torch.testing.assert_close(vectors[2], bundles[2].encode(test.histories).vectors_BD, rtol=1e-4, atol=1e-5)
    ndcg = {metric.name: metric.value for metric in manifest.metrics}["ndcg@10"]
    assert ndcg >= max(
        {m.name: m.value for m in store.manifest(version).metrics}["ndcg@10"] for version in (sasrec, ease)
    )


def test_weights_are_chosen_on_validation_and_never_on_test(
    publish: Callable[..., str], store: ModelStore, workspace: Workspace
) -> None:
    """Its log's best figure is the one that the published file makes on validation."""
    publish("sasrec", "sasrec")
    publish("ease", "ease", lam="5")
    fused = publish("both", "fused", parts='["run:sasrec", "run:ease"]')
    (file,) = workspace.folder.glob("runs/both-*/published.json")
    log = json.loads(file.read_text())["log"]
    data = split_of(store.manifest(fused))
    figure = evaluate(store.open(fused), data.dataset.validation, seen_removed=True).mean("ndcg@10")
    assert max(log["ndcg@10_by_weights"].values()) == pytest.approx(figure, abs=1e-6)
    assert sum(log["weights"]) == pytest.approx(1)


def test_a_part_that_adds_nothing_is_said_to(
    publish: Callable[..., str], store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    publish("good", "ease", lam="5", tau="1")
    useless = publish("useless", "ease", lam="1000000000", tau="1000000")
    with caplog.at_level(logging.WARNING):
        fused = publish("both", "fused", parts='["run:good", "run:useless"]', grid="1")
    if store.open(fused).encoder.config.weights[1] == 0:  # type: ignore[attr-defined]
        assert f"{useless} has weight 0" in caplog.text
        assert any(f"part 2 ({useless})" in warning for warning in store.manifest(fused).warnings)
    else:
        pytest.fail("the useless part was preferred")


def test_seeds_of_one_run_are_parts(publish: Callable[..., str], store: ModelStore) -> None:
    versions = {seed: publish("sasrec", "sasrec", run_seed=seed) for seed in (0, 1, 3)}
    split_fingerprint = store.manifest(versions[0]).provenance.split_fingerprint

    def found(reference: str, seed: int) -> str:
        return find_version(reference, store=store, split_fingerprint=split_fingerprint, seed=seed)

    assert [found("run:sasrec", seed) for seed in (0, 3)] == [versions[0], versions[3]]
    assert found("run:sasrec@1", 0) == versions[1]
    assert [found("run:sasrec@+1", seed) for seed in (0, 1, 3)] == [versions[1], versions[3], versions[0]]
    for wrong, why in (("@7", "no version of seed 7"), ("@x", "'x'")):
        with pytest.raises(RunRefused, match=why):
            found(f"run:sasrec{wrong}", 0)
    fused = publish("twice", "fused", run_seed=3, parts='["run:sasrec", "run:sasrec@+1"]')
    assert list(store.manifest(fused).provenance.parents.values()) == [versions[3], versions[0]]


def test_what_cannot_be_fused_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"named twice.*run:NAME@\+1"):
        Recipe(parts=("run:a", "run:a"))
    with pytest.raises(ValidationError, match="at least 2"):
        Recipe(parts=("run:a",))


def test_only_a_language_model_s_part_reads_shuffled_histories(publish: Callable[..., str], store: ModelStore) -> None:
    publish("sasrec", "sasrec")
    publish("ease", "ease", lam="5", tau="1")
    publish("lm", "e4srec", items_from='"run:sasrec"', history_input='"id"')
    plain = store.open(publish("plain", "fused", parts='["run:ease", "run:sasrec"]'))
    with_lm = store.open(publish("with-lm", "fused", parts='["run:ease", "run:lm"]'))
    queries = split_of(plain.manifest).test
    shuffled = shuffle_histories(queries, "all", seed=0)
    for bundle, changes in ((plain, [True, True]), (with_lm, [False, True])):
        true, mixed = query_vectors(bundle, queries), _vectors(bundle, queries, shuffled)
        dims = [part.dim for part in bundle.encoder.config.parts]  # type: ignore[attr-defined]
        moved = [
            bool((one - other).abs().max() > 1e-4)
            for one, other in zip(torch.split(true, dims, 1), torch.split(mixed, dims, 1), strict=True)
        ]
        assert moved == changes
