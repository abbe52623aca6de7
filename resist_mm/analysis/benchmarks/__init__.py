"""Measurements by real processes on this machine: the exchange, training, input."""
