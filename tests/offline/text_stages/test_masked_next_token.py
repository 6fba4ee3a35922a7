from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from offline.language.language_models import LanguageModel
from offline.text_stages.masked_next_token import _mask_token
from offline.text_stages.stages import Staged


def _staged(folder: Path) -> Staged:
    return Staged.start(LanguageModel(base=str(folder), keep_layers=2))


@pytest.mark.parametrize(
    ("tokenizer", "token"),
    [
        (Tokenizer(models.WordLevel({"?": 0, "a": 1, "_": 2}, unk_token="?")), 2),
        (Tokenizer(models.WordLevel({"?": 0, "a": 1}, unk_token="?")), 0),
        (Tokenizer(models.BPE(vocab={"a": 0}, merges=[])), None),
    ],
    ids=["its own", "the unknown one", "none"],
)
def test_tokens_are_hidden_by_the_one_for_an_underscore(
    tokenizer: Tokenizer, token: int | None, tiny_base: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "base/tokenizer.json"))
    staged = _staged(tmp_path / "base")
    if token is None:
        with pytest.raises(ValueError, match='no token of its own for "_"'):
            _mask_token(staged)
    else:
        assert _mask_token(staged) == token
