"""Rounds of a simulated fleet: what is asked of clients, who trains them, and what is decided of it."""
