"""How good a version is, and when a difference is a difference."""
