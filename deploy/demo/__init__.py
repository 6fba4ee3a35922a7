"""`make demo`. Starts the same commands that a person would type, and imports neither app nor offline."""
