"""What people see of a run: progress, the table by arm, the story of one rollout."""
