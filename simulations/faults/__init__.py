"""Seeded schedules of faults on a whole fleet in simulated time, and what must hold whatever they do."""
