from __future__ import annotations

import numpy as np
import pytest

from app.item_records import ItemRecord, Sequence
from app.nearest import Similar, nearest
from app.overlay import Change
from app.serving import Serving
from model_store.bundle import Bundle


def cosines(vectors_ND: np.ndarray[tuple[int, int], np.dtype[np.float32]], row: int) -> np.ndarray[
    tuple[int], np.dtype[np.float64]
]:  # fmt: skip
    wide_ND = vectors_ND.astype(np.float64)
    unit_ND = wide_ND / np.linalg.norm(wide_ND, axis=1, keepdims=True)
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = unit_ND @ unit_ND[row]
    return found


@pytest.mark.parametrize("row", [0, 17, 59])
def test_similar_is_the_exact_cosine_without_the_item_itself(beta: Bundle, row: int) -> None:
    serving = Serving.of(beta)
    cosine_N = cosines(beta.index.vectors_ND, row)
    order = [int(other) for other in np.lexsort((np.arange(len(cosine_N)), -cosine_N)) if other != row]
    found = Similar.run(beta, [Similar.of(serving, row, 7)])[0]
    assert found.rows.tolist() == order[:7]
    np.testing.assert_allclose(found.scores, cosine_N[order[:7]])
    everything = nearest(serving, serving.vector(row), 1000, leave_out=row)
    assert everything.rows.tolist() == order
    assert everything.exhausted


def test_added_and_hidden_items_count(beta: Bundle) -> None:
    rng = np.random.default_rng(0)
    changes = [
        Change("new", ItemRecord("new", Sequence(1, 0), "New"), rng.normal(size=8).astype(np.float32)),
        Change("beta-3", ItemRecord("beta-3", Sequence(2, 0), "Changed"), rng.normal(size=8).astype(np.float32)),
        Change("beta-9", ItemRecord("beta-9", Sequence(3, 0), removed=True)),
    ]
    serving = Serving.of(beta)
    serving = Serving(beta, serving.overlay.changed(beta.catalog, changes))
    assert (serving.row("new"), serving.row("beta-3"), serving.row("beta-9")) == (60, 61, None)
    rows = np.array([row for row in range(62) if row not in (3, 9)])
    vectors_ND = np.stack([serving.vector(row) for row in rows.tolist()])
    for row in (60, 61, 5):
        cosine_N = cosines(vectors_ND, rows.tolist().index(row))
        order = [int(other) for other in rows[np.lexsort((rows, -cosine_N))] if other != row]
        assert nearest(serving, serving.vector(row), 100, leave_out=row).rows.tolist() == order
        assert nearest(serving, serving.vector(row), 3, leave_out=row).rows.tolist() == order[:3]
