"""Agent rollouts in bulk."""
