"""Which task a trainer's next group is of: curricula without code."""
