"""Bodies, heads and their layers."""
