from __future__ import annotations

from pathlib import Path

import pytest

from offline.datasets import DataRefused, load
from offline.datasets.config import ItemColumns, RecBoleConfig


def test_atomic_files_are_read_under_their_bare_names(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "films.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\t2\t5.5\nu\t1\t4\n")
    (folder / "films.item").write_text("item_id:token\tname:token_seq\tclass:token_seq\n1\tA film\tDrama War\n")
    columns = ItemColumns(title="name", categories="class")
    interactions = load(RecBoleConfig(name="films", folder=str(folder), item_columns=columns))
    assert interactions.items["item_id"].to_list() == ["1", "2"]
    assert interactions.items["title"].to_list() == ["A film", None]
    assert interactions.items["categories"].to_list() == [["Drama", "War"], []]
    assert interactions.item_rows.tolist() == [0, 1]
    assert interactions.times_ms.tolist() == [4000, 5500]


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match=r"nothing\.inter"):
        load(RecBoleConfig(name="films", folder=str(tmp_path), stem="nothing"))
