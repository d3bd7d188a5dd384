"""Advice: from a user's own data to the rule that suits it, and to the configuration of the fleet."""
