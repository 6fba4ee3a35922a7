from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from offline.compare.settings import Settings, data_of
from offline.run_config import RunRefused


def test_a_built_in_name_has_its_headline() -> None:
    assert data_of("ml-100k")[1:] == ("last-10", {})
    assert data_of("amazon-beauty")[1] == "leave-one-out"


def test_a_run_file_says_what_goes_for_every_arm(world: Path) -> None:
    data, headline, shared = data_of(str(world))
    assert (data.name, headline) == ("tiny", "last-10")
    assert set(shared) == {"lm", "prompt", "item_text", "max_history", "fit"}
    assert shared["fit"]["epochs"] == 3


def test_what_is_no_data_is_refused(settings_of: Callable[..., Settings]) -> None:
    with pytest.raises(RunRefused, match="neither a run file"):
        data_of("movielens")
    with pytest.raises(RunRefused, match="no unit of work may take 60 minutes"):
        settings_of(minutes=60.0)
