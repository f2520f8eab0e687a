"""Comparing strategies: cells, the processes that run them, what they show together."""
