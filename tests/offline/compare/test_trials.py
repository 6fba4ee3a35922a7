from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from offline.compare import trials
from offline.compare.settings import Settings
from offline.tuning import Trial

SettingsOf = Callable[..., Settings]


def test_trials_on_other_data_choose_nothing_here(settings_of: SettingsOf) -> None:
    settings = settings_of(trials=2)
    for number, changes in enumerate(trials.drawn("sasrec", settings)):
        trials.keep(Trial(number=number, changes=changes, ndcg10=0.1, epochs=1, seconds=1.0), "sasrec", settings)
    assert set(trials.done("sasrec", settings)) == {0, 1}
    filtered = replace(settings, data=settings.data.model_copy(update={"min_rating": 4.0}))
    assert trials.done("sasrec", filtered) == {}
