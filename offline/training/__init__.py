"""One loop, its losses and its state on disk."""
