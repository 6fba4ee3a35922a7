"""What an arm is: a family, what is changed in it, and which other arms it starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

# family: what a team would choose between; variant: answers one question about a family; control: proves nothing by
# itself; baseline: needs no language model; fusion: two versions in one search.
Role = Literal["baseline", "family", "variant", "control", "fusion"]
Where = Literal["warm", "cold", "temporal"]
SCORER = ""  # the family of a row that is no bundle
NAMES = {
    "sasrec": "SASRec",
    "ease": "EASE",
    "ilora": "iLoRA",
    "e4srec": "E4SRec",
    "contriever": "Contriever-Rec",
    "llm2vec": "LLM2Vec",
    "llamarec": "LlamaRec",
}


@dataclass(frozen=True, slots=True)
class Arm:
    """variant: in words. changes: recipe keys beside where the family starts; dropped: keys that it does not write;
    bare: it writes nothing but its changes (it trains nothing).
    parents: recipe key -> arm (or arms) whose version of the same seed it names; "sasrec@1" is the next seed's.
    seeds: at most, on the warm protocol. beside: the arm whose own seed it adds to.
    twin: the arm with random weights that it must beat. train_minutes: None for a training with a budget.
    parts: how many units share the ranking of its test events.
    """

    name: str
    family: str
    variant: str
    role: Role
    llm: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    bare: bool = False
    parents: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    seeds: int = 5
    where: tuple[Where, ...] = ("warm",)
    beside: str | None = None
    twin: str | None = None
    train_minutes: float | None = None
    score_minutes: float = 0.3
    parts: int = 1

    @property
    def is_bundle(self) -> bool:
        return self.family != SCORER

    @property
    def drawn(self) -> bool:
        """Whether a seed changes anything: a training has one even where it is run once."""
        return self.seeds > 1 or (self.is_bundle and self.train_minutes is None)

    def parent_arms(self) -> tuple[str, ...]:
        named = [(value,) if isinstance(value, str) else value for value in self.parents.values()]
        return tuple(dict.fromkeys(name.partition("@")[0] for names in named for name in names))


def in_words(name: str) -> str:
    """An arm's name as people write it: "ilora+ease" is iLoRA + EASE, "ilora-sasrec" iLoRA (sasrec)."""
    parts = [part.partition("-") for part in name.split("+")]
    return " + ".join(NAMES.get(head, head) + (f" ({rest})" if rest else "") for head, _, rest in parts)
