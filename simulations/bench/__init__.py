"""How fast a simulation is: the workloads, and what stands beside it."""
