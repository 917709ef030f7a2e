"""The task factory behind ``envs-build``: tasks made, verified, counted and written to disk."""
