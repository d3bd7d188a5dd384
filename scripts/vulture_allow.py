"""What vulture cannot see used, each with the reason: libraries and formats use it by name."""
