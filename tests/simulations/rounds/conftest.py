"""Conditions for all tests here."""

from tests.simulations.engines.conditions import _one_thread, _traced_without_checks

__all__ = ["_one_thread", "_traced_without_checks"]
