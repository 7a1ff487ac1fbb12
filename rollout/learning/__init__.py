"""A policy of a few thousand weights that learns to use a shell: the whole loop, small enough to
run on a laptop without a GPU."""
