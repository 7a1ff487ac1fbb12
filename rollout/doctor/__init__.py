"""What this machine can do for rollouts: tried out, not guessed, and what to change."""
