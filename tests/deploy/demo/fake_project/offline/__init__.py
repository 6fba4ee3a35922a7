"""Stands in for the package of this name: same commands, no work."""
