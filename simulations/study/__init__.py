"""Studies: every scenario with every method, seed and learning rate, resumable, summed up and drawn."""
