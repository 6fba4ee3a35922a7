"""The claims of the owner's brief, as the page shows them before any was measured."""

from __future__ import annotations

CLAIM_NAMES: dict[int, str] = {
    1: "iLoRA is hard to train",
    2: "Contriever-Rec trains smoothly",
    3: "text families win on new items",
    4: "text alone loses collaborative signal on well-known items",
    5: "whole-history pooling serves long-term interest, the last token the next step",
    6: "E4SRec tells near-identical titles apart, text cannot",
    7: "retrieve-then-rerank pays",
    8: "the projector should be turned around",
    9: "an LLM recommender reads order at all",
    10: "raw ID and raw text together lose less",
    11: "E4SRec trains more directly",
    12: "Contriever-Rec is the most promising replacement of iLoRA",
    13: "the pretrained language model contributes anything",
}
