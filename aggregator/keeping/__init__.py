"""What the aggregator keeps on its disk: versions, layers, the log of the open round, backups."""
