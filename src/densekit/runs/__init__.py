"""Run folders, and the trackers that follow a run."""
