from __future__ import annotations

import numpy as np
import pytest

from model_store.tf_idf import TfIdf, words

TEXTS = ["Alien (1979) | Horror", "Aliens (1986) | Horror, War", "Brazil (1985) | Comedy"]


def test_words_are_runs_of_letters_and_digits() -> None:
    assert words("Toy Story (1995) | Children's") == ["toy", "story", "1995", "children", "s"]


def test_weights_by_hand() -> None:
    fitted = TfIdf.fit(TEXTS)
    weight = dict(zip(fitted.vocabulary, fitted.idf_W, strict=True))
    assert weight["horror"] == pytest.approx(np.log(4 / 3) + 1)
    assert weight["alien"] == pytest.approx(np.log(4 / 2) + 1)
    assert fitted.unseen == pytest.approx(np.log(4) + 1)
    vector = dict(zip(fitted.vocabulary, fitted.vectors(["horror horror alien"]).toarray()[0], strict=True))
    assert vector["horror"] / vector["alien"] == pytest.approx(2 * weight["horror"] / weight["alien"])


def test_fitted_texts_have_unit_length_and_unheard_words_lengthen() -> None:
    fitted = TfIdf.fit(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(fitted.vectors(TEXTS).toarray(), axis=1), 1)
    short = fitted.vectors(["horror", "horror unheard", "unheard", ""]).toarray()
    norms = np.linalg.norm(short, axis=1)
    assert norms[0] == pytest.approx(1)
    assert 0 < norms[1] < 0.8
    assert norms[2:].tolist() == [0, 0]
