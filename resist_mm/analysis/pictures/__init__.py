"""Pictures of runs and of the method. They import matplotlib: import them only where something is drawn."""
