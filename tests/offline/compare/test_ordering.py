from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from offline.compare.arms import BY_NAME
from offline.compare.found_versions import FoundVersions
from offline.compare.null_world import null_world
from offline.compare.ordering import order_file, read_order
from offline.compare.settings import Settings

SettingsOf = Callable[..., Settings]
FoundOf = Callable[[Settings], FoundVersions]


def test_only_what_was_measured_under_this_budget_is_read(settings_of: SettingsOf, found_of: FoundOf) -> None:
    """The same recipe under another budget is another version: what it loses would be counted as lost order."""
    settings = settings_of()
    found = found_of(settings)
    shorter = found_of(replace(settings, minutes=settings.minutes / 2))
    for measured, seed in ((found, 0), (shorter, 1)):
        file = order_file(BY_NAME["sasrec"], seed, measured)
        file.parent.mkdir(exist_ok=True)
        values = {name: np.full(4, value) for value, name in enumerate(("true", "all", "but_last"))}
        np.savez_compressed(file, allow_pickle=False, **values)
    warm = {"sasrec": null_world(0, users=2, events=2, seeds=2)["sasrec"]}
    order = read_order(warm, found)["sasrec"]
    assert order.true_SE.shape == order.all_SE.shape == order.but_last_SE.shape == (1, 4)
    assert (order.true_SE[0, 0], order.all_SE[0, 0], order.but_last_SE[0, 0]) == pytest.approx((0, 1, 2))
