"""What a run leaves behind: metrics, trajectories, summary, report, and the progress shown meanwhile."""
