"""Stages that train a language model on text, before it learns to recommend."""
