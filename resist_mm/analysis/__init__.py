"""What is measured and counted: costs of communication, benchmarks, the paper's tables, its theory."""
