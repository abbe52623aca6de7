"""Results on two CPU cores: the runs, and what is written of them to ``docs/results``."""
