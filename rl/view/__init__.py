"""`rl-view`: the runs of a directory as local pages: curves, and every rollout to be found and read."""
