"""What a person wants to know of a data set before training on it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import polars as pl

from offline.datasets.interactions import Interactions
from offline.datasets.ties import tied

QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def describe(interactions: Interactions) -> str:
    """Lines of `label  value`, for a terminal."""
    figures = {**_sizes(interactions), **_times(interactions), **_texts(interactions.items)}
    width = max(map(len, figures))
    lines = [f"  {label:<{width}}  {value}" for label, value in figures.items()]
    return "\n".join([f"{interactions.name} ({interactions.fingerprint[:12]})", *lines])


def _sizes(interactions: Interactions) -> dict[str, str]:
    users, items, events = len(interactions.user_ids), len(interactions.items), len(interactions.users)
    per_item = np.bincount(interactions.item_rows, minlength=items)
    pairs = len(np.unique(interactions.users.astype(np.int64) * items + interactions.item_rows))
    return {
        "users": f"{users:,}",
        "items": f"{items:,} ({int((per_item == 0).sum()):,} without an event)",
        "events": f"{events:,} ({events - pairs:,} repeats of a user's item)",
        "density": f"{pairs / (users * items):.4%}",
        "events per user": _quantiles(np.bincount(interactions.users, minlength=users)),
        "events per item": _quantiles(per_item),
        "seen items": "removed" if interactions.exclude_seen else "may be recommended again",
    }


def _quantiles(counts: npt.NDArray[np.int64]) -> str:
    points = np.percentile(counts, QUANTILES)
    return f"mean {counts.mean():.1f}; " + ", ".join(
        f"{point:.0f} ({quantile} %)" for point, quantile in zip(points, QUANTILES, strict=True)
    )


def _times(interactions: Interactions) -> dict[str, str]:
    timed = interactions.times_ms[interactions.times_ms >= 0]
    if len(timed) == 0:
        return {"times": "none: file order counts"}
    first, last = (datetime.fromtimestamp(int(t) / 1000, UTC).date().isoformat() for t in (timed.min(), timed.max()))
    untimed = np.unique(interactions.users[interactions.times_ms < 0])
    return {
        "times": f"{first} to {last} ({len(untimed):,} users have none)",
        "ties": f"{tied(interactions).mean():.1%} of events share their time with another of the same user",
    }


def _texts(items: pl.DataFrame) -> dict[str, str]:
    titles = items["title"].drop_nulls()
    with_categories = items.filter(pl.col("categories").list.len() > 0)
    names = with_categories["categories"].explode().n_unique() if len(with_categories) else 0
    return {
        "titles": f"{len(titles):,} ({len(items) - len(titles):,} missing, {len(titles) - titles.n_unique():,} twice)",
        "texts": f"{items['text'].count():,}",
        "categories": f"{names:,} on {len(with_categories):,} items",
        "years": f"{items['year'].count():,} items",
    }
