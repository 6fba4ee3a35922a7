"""What an answer must look like that comes from one version and from no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def is_mixed(answer: dict[str, Any], families: Sequence[str], *, k: int = 10, unknown: int = 5) -> str | None:
    """What in this answer is not of the version that it names; None when it is whole.

    The bundles' item ids are `<family>-<number>`, and the history held `unknown` items of the other family.
    """
    family = answer["version"].split("-")[1]
    (other,) = set(families) - {family}
    if (answer["family"], answer["fallback"], len(answer["items"])) != (family, None, k):
        return f"{answer['family']} / {answer['fallback']} / {len(answer['items'])} items under {answer['version']}"
    foreign = [item["item_id"] for item in answer["items"] if not item["item_id"].startswith(f"{family}-")]
    if foreign:
        return f"items {foreign} under {answer['version']}"
    strangers = answer["unknown_items"]
    if len(strangers) != unknown or not all(item.startswith(f"{other}-") for item in strangers):
        return f"unknown items {strangers} under {answer['version']}"
    if answer["request_id"].split("-")[1] != answer["version"].rpartition("-")[2]:
        return f"request id {answer['request_id']} under {answer['version']}"
    return None
