"""The product's own state machines without a network, in simulated time."""
