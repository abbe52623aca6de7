"""Measurements and models of cost: communication, benchmarks, the paper's tables, its theory."""
