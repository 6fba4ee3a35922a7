"""Where every family starts, and what its trials may vary: two layers of SmolLM2, one token per item, a CPU's budget.

Held equal across the arms: base model, layers, reading of texts, rank of LoRA, optimiser, epochs. What is tuned is
chosen once per family, on its main arm, and goes for all of its arms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIT: dict[str, Any] = {
    "batch": 32,
    "epochs": 6,
    "learning_rate": 1e-3,
    "warmup_steps": 50,
    "decay": True,
    "clip": 1.0,
    "evaluate_every": 1,
    "average": 1,
}
# How texts are read: genres first, because in a causal model what comes later reads what came before, and after 8 of
# 30 layers. Chosen on items of a draw that no protocol hides: recall@10 among them .298; with the title first and 12
# layers .263, nearest texts by TF-IDF .214 (EXPERIMENTS.md).
ITEM_TEXT = "{categories} | {title} ({year})"
LM: dict[str, Any] = {"keep_layers": 2, "text_layers": 8}
LANGUAGE_MODEL: dict[str, Any] = {
    "item_text": ITEM_TEXT,
    "prompt": "Films:\n",
    "max_history": 100,
    "dropout": 0.2,
    "lm": LM,
    "fit": FIT,
}
RESIDUAL: dict[str, Any] = {"residual": True, "branch_drop": 1.0}

STARTS: dict[str, dict[str, Any]] = {
    "sasrec": {
        "dim": 64,
        "dropout": 0.2,
        "max_history": 100,
        "fit": {"epochs": 45, "patience": 4, "weight_decay": 0.1},
    },
    # Closed form: the whole grid costs seconds, whatever the number of trials.
    "ease": {"lam": "validation", "tau": "validation"},
    "e4srec": LANGUAGE_MODEL | RESIDUAL | {"history_input": "sum", "train_items": False},
    "ilora": LANGUAGE_MODEL | {"history_input": "sum", "space": "common", "item_tower": "id"},
    "contriever": LANGUAGE_MODEL | {"history_input": "text_vector", "item_training": "frozen"},
    # One vector per history: an epoch reads a history once for each of its targets.
    "llm2vec": LANGUAGE_MODEL
    | {"history_input": "text_vector", "max_history": 50, "targets_per_user": 10, "fit": FIT | {"epochs": 4}},
    # Its answer is read off the head, which four layers have only after healing: on short titles, whose tokens are hard
    # to guess, that takes more of them than on text with genres.
    "llamarec": {
        "item_text": "{title}",
        "max_text_tokens": 6,
        "prompt": "Chosen films:\n",
        "answer_prompt": "Next:",
        "max_history": 10,
        "prompts": 1_200,
        "validation_prompts": 150,
        "dropout": 0.0,
        "lm": {"keep_layers": 4},
        "healing": {"tokens": 100_000, "check_tokens": 25_000, "share": 0.6, "learning_rate": 1e-3},
        "fit": FIT | {"batch": 8, "epochs": 1, "warmup_steps": 20},
    },
    "fused": {},
}

_RATES = {"dropout": [0.1, 0.2, 0.4], "fit.learning_rate": [3e-4, 1e-3, 3e-3]}
# LlamaRec is not here: each of its trials would fit the retrievers of five folds again. EASE searches by itself.
TRIALS: dict[str, dict[str, list[Any]]] = {
    "sasrec": {
        "dim": [64, 128],
        "dropout": [0.2, 0.3, 0.5],
        "max_history": [50, 100, 200],
        "fit.weight_decay": [0.0, 0.1],
    },
    "e4srec": _RATES,
    "ilora": _RATES,
    "contriever": _RATES,
    "llm2vec": _RATES,
}


# Minutes of one core that a training which starts there takes until it ends by itself on ML-100K's 90,000 training
# events: means over this project's runs on two kinds of machine (the faster needs three quarters of it).
TYPICAL_MINUTES = {"sasrec": 3.0, "ilora": 4.1, "e4srec": 3.6, "contriever": 3.8, "llm2vec": 7.0}
TYPICAL_EVENTS = 90_000


def typical_minutes(family: str, shared: Mapping[str, Any], *, events: int) -> float | None:
    """Of one training; None where nobody has measured it, or a run file says how large or long it is. Larger data take
    longer in proportion.
    """
    if family not in TYPICAL_MINUTES or {"lm", "fit", "max_history", "max_text_tokens"} & shared.keys():
        return None
    return TYPICAL_MINUTES[family] * events / TYPICAL_EVENTS


FILMS = ("ml-100k",)


def start_of(family: str, dataset: str) -> dict[str, Any]:
    """Recipe key -> value. Other data than films are introduced as the families do by themselves."""
    start = STARTS.get(family, {})
    return start if dataset in FILMS else {key: value for key, value in start.items() if key != "prompt"}


def text_reading(shared: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The template, and the language model's section, of rows that read texts and are no bundles. shared: what a run
    file says for all arms.
    """
    return shared.get("item_text", ITEM_TEXT), LM | shared.get("lm", {})
