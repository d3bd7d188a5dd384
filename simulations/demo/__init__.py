"""``fedlag demo``: four fleets of the product side by side, over a real broker."""
