"""What repeated samples of the same tasks say about a policy: estimators, intervals, votes. Pure functions."""
