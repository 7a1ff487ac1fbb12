"""From groups of rollouts to what an optimiser takes: advantages and batches. No torch here."""
