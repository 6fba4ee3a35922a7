from __future__ import annotations

from dataclasses import replace

import numpy as np

from offline.claims import worlds
from offline.claims.inputs import OrderScores
from offline.claims.twin_events import twin_events
from offline.compare.contrasts import judge
from offline.compare.null_world import NULL_DRAWS, claimed_of_page, claims_in_null_worlds, null_world


def test_where_all_are_equal_the_page_claims_little() -> None:
    """Of 100 worlds; at 5 % over a page's contrasts and claims together, about 5."""
    assert claims_in_null_worlds(100) <= 10


def test_a_null_world_is_like_a_real_one() -> None:
    means = {name: float(scores.ndcg10_SE.mean()) for name, scores in null_world(0).items()}
    assert 0.05 < min(means.values()) < max(means.values()) < 0.2
    primary = {(j.contrast.family, j.contrast.base) for j in judge(null_world(0), draws=200) if j.primary}
    assert {("e4srec+ease", "sasrec"), ("llm2vec", "llm2vec-random"), ("ilora", "ease-recency")} <= primary
    assert len(primary) > 20, "about as many as on the page"


def test_what_is_planted_into_a_null_world_is_claimed() -> None:
    """Else "claims little" would mean that so few draws can claim nothing."""
    data, pairs = worlds.long_interest(), worlds.sequels()
    warm, extras = worlds.nothing_to_find(data.test, twin_events(pairs.dataset, pairs.test))
    read = extras.order["e4srec"]
    ordered = replace(extras, order={"e4srec": OrderScores(read.true_SE, 0 * read.all_SE, read.but_last_SE)})
    scores = null_world(0)
    assert claimed_of_page(scores, warm, data, extras=extras, draws=NULL_DRAWS, seed=0) == []
    assert claimed_of_page(scores, warm, data, extras=ordered, draws=NULL_DRAWS, seed=0) == ["claim 9 supported"]
    scores["e4srec"] = replace(scores["e4srec"], ranks_SE=np.ones_like(scores["e4srec"].ranks_SE))
    claimed = claimed_of_page(scores, warm, data, extras=extras, draws=NULL_DRAWS, seed=0)
    assert "e4srec against sasrec" in claimed
