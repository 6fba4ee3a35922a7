"""The claims that the comparison page judges, and how each is measured."""

from offline.claims.claim import Claim
from offline.claims.inputs import ColdDraw, Extras, OrderScores, Reranking, Scored, TwinWins
from offline.claims.thirteen import measure_all

__all__ = ["Claim", "ColdDraw", "Extras", "OrderScores", "Reranking", "Scored", "TwinWins", "measure_all"]
