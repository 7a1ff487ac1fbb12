"""Rollouts for a trainer that runs meanwhile."""
