"""All benchmarks in one go and one table, and what a benchmark says of itself."""
