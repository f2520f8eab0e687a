"""Callbacks that follow a run: the log, reports, and experiment trackers."""
