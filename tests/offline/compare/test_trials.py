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


def _made(family: str, settings: Settings, *, best: int) -> None:
    for number, changes in enumerate(trials.drawn(family, settings)):
        ndcg10 = 0.2 if number == best else 0.1
        trial = Trial(number=number, changes=changes, ndcg10=ndcg10, epochs=1, seconds=1.0)
        trials.keep(trial, family, settings)


def test_trials_from_another_choice_of_the_parent_are_others(settings_of: SettingsOf) -> None:
    """Else the next ones would be judged beside trials that started from something else."""
    settings = settings_of(trials=3)
    _made("sasrec", settings, best=0)
    _made("e4srec", settings, best=0)
    assert set(trials.done("e4srec", settings)) == {0, 1, 2}
    _made("sasrec", settings, best=1)
    assert trials.choices({"sasrec"}, settings)["sasrec"] != {}
    assert trials.done("e4srec", settings) == {}
