"""Data that cannot be used as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path


class DataRefused(ValueError):
    """Names the file, the data row (1 = the first below the header) where one is to blame, and the cure."""

    def __init__(self, file: Path | str, problem: str, *, cure: str, row: int | None = None) -> None:
        self.file, self.problem, self.cure, self.row = str(file), problem, cure, row
        where = f"{file}, data row {row}" if row is not None else str(file)
        super().__init__(f"{where}: {problem}. Cure: {cure}.")

    def __reduce__(self) -> tuple[Callable[..., DataRefused], tuple[str, str]]:
        """A trial in a process of its own reports its reason too."""
        return partial(DataRefused, cure=self.cure, row=self.row), (self.file, self.problem)
