"""The [data] section of a run file: which data set, where it lies, and how its columns are called."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EventColumns(_Section):
    """Column names of the interactions. time = "" says that the data has no times: file order counts.

    rating is optional: a default name that the file lacks is no error.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    rating: str = "rating"


class ItemColumns(_Section):
    """Column names of the items. All but `item` are optional; one that is named here must exist."""

    item: str = "item_id"
    title: str = "title"
    text: str = "text"
    categories: str = "categories"
    year: str = "year"


class _DataSection(_Section):
    """What every kind of data knows.

    min_rating: events rated below are dropped. k_core: users and items with fewer events are dropped until none is
    left (0 and 1 drop nothing). repeat: "first" keeps only a user's first event with an item. exclude_seen: whether
    items of the history are removed when recommending and evaluating. shuffle_ties: a seed puts events of equal time in
    random order (the protocol `tie-shuffled`).
    """

    min_rating: float | None = None
    k_core: NonNegativeInt = 0
    repeat: Literal["keep", "first"] = "keep"
    exclude_seen: bool = True
    shuffle_ties: NonNegativeInt | None = None


class Ml100kConfig(_DataSection):
    kind: Literal["ml-100k"] = "ml-100k"
    name: str = "ml-100k"


class TablesConfig(_DataSection):
    """Two tables: csv, tsv, parquet; the text ones may end in .gz. Paths may hold ${VARIABLES} of the environment.

    time_unit: of numeric times; "iso" reads text such as 2024-05-01T12:00:00. Parquet's own dates need none.
    categories_separator: between the categories of a text column.
    """

    kind: Literal["tables"] = "tables"
    name: str
    interactions: str
    items: str | None = None
    columns: EventColumns = EventColumns()
    item_columns: ItemColumns = ItemColumns()
    time_unit: Literal["s", "ms", "us", "ns", "iso"] = "s"
    categories_separator: Annotated[str, Field(min_length=1)] = "|"


class RecBoleConfig(_DataSection):
    """RecBole's atomic files `<stem>.inter` and, where it exists, `<stem>.item`; stem defaults to the folder's name."""

    kind: Literal["recbole"] = "recbole"
    name: str
    folder: str
    stem: str = ""
    columns: EventColumns = EventColumns()
    item_columns: ItemColumns = ItemColumns()
    time_unit: Literal["s", "ms", "us", "ns"] = "s"


DataConfig = Annotated[Ml100kConfig | TablesConfig | RecBoleConfig, Field(discriminator="kind")]

BUILT_IN: dict[str, DataConfig] = {
    "ml-100k": Ml100kConfig(),
    "amazon-beauty": TablesConfig(
        name="amazon-beauty",
        interactions="${NAISEKI_BEAUTY}/interactions.tsv.gz",
        items="${NAISEKI_BEAUTY}/items.tsv.gz",
    ),
}
