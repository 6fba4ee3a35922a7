from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offline.compare.measured import Measured
from offline.compare.null_world import null_world
from offline.compare.temporal_buckets import buckets_of
from offline.datasets import Interactions
from offline.splits.protocols import split
from offline.splits.temporal import buckets


def test_each_bucket_holds_its_events_and_no_others(ml_100k: Interactions) -> None:
    data = split(ml_100k, "temporal")
    scores = null_world(0, users=2, events=2, seeds=1)["sasrec"]
    new_user_E = buckets(data)["user new"]
    # Found at once where the user is new, never where it is known.
    ranks_SE = np.where(new_user_E, 1, 0).astype(np.int32)[None, :]
    asked = replace(scores, ranks_SE=ranks_SE, users_E=data.test.users, weights_E=data.test.weights)
    measured = Measured({}, {"sasrec": asked}, {}, {"temporal": data})
    found = {bucket.name: bucket for bucket in buckets_of(measured)}
    assert found["user new"].share + found["user known"].share == pytest.approx(1)
    assert found["user new"].share == pytest.approx(new_user_E.mean())
    assert found["user new"].ndcg10["sasrec"] == pytest.approx(1.0)
    assert found["user known"].ndcg10["sasrec"] == 0.0
    assert 0 < found["item new"].ndcg10["sasrec"] < 1
    assert buckets_of(replace(measured, temporal={})) == []
