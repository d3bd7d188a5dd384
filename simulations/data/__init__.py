"""Data to learn from, and the ways in which devices differ."""
