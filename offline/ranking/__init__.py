"""Rankers behind a retriever (LlamaRec), in training."""
