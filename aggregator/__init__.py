"""The home server: rounds, conflict detection, layer selection, averaging and the store."""
