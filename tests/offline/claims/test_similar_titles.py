from __future__ import annotations

import itertools

import numpy as np

from offline.claims.similar_titles import normalised, twin_pairs


def _pairs(titles: list[str]) -> set[tuple[int, int]]:
    items, twins = twin_pairs(titles)
    return set(zip(items.tolist(), twins.tolist(), strict=True))


def test_titles_that_are_nearly_the_same_are_twins_of_each_other() -> None:
    titles = ["Under Siege", "Under Siege 2", "Amélie", "amelie!", "Toy Story", ""]
    assert _pairs(titles) == {(0, 1), (1, 0), (2, 3), (3, 2)}
    assert normalised("  Amélie (Le  Fabuleux) ") == "amelie le fabuleux"


def test_none_is_missed_and_none_invented() -> None:
    """Against counting all pairs, on random strings of few letters."""
    rng = np.random.default_rng(0)
    titles = ["".join(rng.choice(list("abc "), int(rng.integers(0, 14)))) for _ in range(150)]

    def grams(title: str) -> set[str]:
        text = normalised(title)
        padded = f"  {text}  " if text else ""
        return {padded[at : at + 3] for at in range(len(padded) - 2)}

    expected = set()
    for a, b in itertools.permutations(range(len(titles)), 2):
        both, either = grams(titles[a]) & grams(titles[b]), grams(titles[a]) | grams(titles[b])
        if either and len(both) >= 0.6 * len(either):
            expected.add((a, b))
    assert len(expected) > 50
    assert _pairs(titles) == expected
    assert _pairs([]) == _pairs(["", ""]) == set()
