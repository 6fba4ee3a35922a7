from __future__ import annotations

import numpy as np
import pytest

from model_store.years import centres, year_features, years_of


def test_a_year_is_a_number_that_stands_by_itself() -> None:
    assert years_of("2001: A Space Odyssey (1968)") == [2001, 1968]
    assert years_of("item 19951 of 1499, 12001996, 3001") == []


def test_neighbouring_years_are_alike_and_far_ones_are_not() -> None:
    texts = ["a (1994)", "b (1995)", "c (1931)", "no year"]
    found_NC = year_features(texts, centres(texts)).toarray()
    alike_NN = found_NC @ found_NC.T
    assert np.diag(alike_NN) == pytest.approx([1.0, 1.0, 1.0, 0.0])
    assert alike_NN[0, 1] > 0.98
    assert alike_NN[0, 2] < 0.01


def test_without_years_there_are_no_features() -> None:
    assert centres(["lipstick, red", "mascara"]) == ()
    assert year_features(["a (1994)"], ()).shape == (1, 0)


def test_a_year_far_from_all_fitted_ones_says_nothing() -> None:
    assert year_features(["(1500)"], centres(["(1990)", "(1998)"])).toarray().tolist() == [[0.0, 0.0, 0.0]]
