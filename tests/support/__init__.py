"""What several tests share: trees to commit, ways to compare them, stores to fill."""
