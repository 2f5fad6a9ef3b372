"""Directory trees: reading them into entries, and making them of entries."""
