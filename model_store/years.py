"""Years that a text names, as places on a line: to a bag of words 1994 is as far from 1995 as from 1931."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse

STEP, WIDTH = 4, 6.0  # years between two centres, and the deviation of the bell over each

_YEAR = re.compile(r"(?<!\d)(?:1[5-9]|20)\d\d(?!\d)")


def years_of(text: str) -> list[int]:
    """Every number from 1500 to 2099 that stands by itself."""
    return [int(found) for found in _YEAR.findall(text)]


def centres(texts: Sequence[str]) -> tuple[int, ...]:
    """One every four years, from the earliest year that these texts name to the latest; none where they name none."""
    named = [year for text in texts for year in years_of(text)]
    return tuple(range(min(named), max(named) + STEP, STEP)) if named else ()


def year_features(texts: Sequence[str], centres_C: Sequence[int]) -> scipy.sparse.csr_array:
    """float64 [N, C], rows of unit length: exp(-(year - centre)^2 / width^2), summed over the years that a text names.

    A row is zero where the text names none, or only years far from every centre.
    """
    features_NC: npt.NDArray[np.float64] = np.zeros((len(texts), len(centres_C)))
    for row, text in enumerate(texts):
        for year in years_of(text):
            features_NC[row] += np.exp(-(((year - np.array(centres_C)) / WIDTH) ** 2))
    lengths_N1 = np.linalg.norm(features_NC, axis=1, keepdims=True)
    return scipy.sparse.csr_array(np.divide(features_NC, lengths_N1, where=lengths_N1 > 1e-6, out=features_NC * 0))
