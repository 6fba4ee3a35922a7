from __future__ import annotations

from offline.compare.contrasts import judge
from offline.compare.null_world import claims_in_null_worlds, null_world


def test_where_all_are_equal_the_page_claims_little() -> None:
    """Of 100 worlds; at 5 % over a page's contrasts and claims together, about 5."""
    assert claims_in_null_worlds(100) <= 10


def test_a_null_world_is_like_a_real_one() -> None:
    means = {name: float(scores.ndcg10_SE.mean()) for name, scores in null_world(0).items()}
    assert 0.05 < min(means.values()) < max(means.values()) < 0.2
    primary = {(j.contrast.family, j.contrast.base) for j in judge(null_world(0), draws=200) if j.primary}
    assert {("e4srec+ease", "sasrec"), ("llm2vec", "llm2vec-random"), ("ilora", "ease-recency")} <= primary
    assert len(primary) > 20, "about as many as on the page"
