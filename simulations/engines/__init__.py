"""Engines: ways to train many clients at once, all with the values that a serial loop gives."""
