"""The process group of a run: collectives, and a heartbeat that notices lost processes."""
