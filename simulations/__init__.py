"""Data, whole fleets on one machine, and their reports."""
