"""Comparison of strategies: design, processes that run the cells, and evaluation."""
