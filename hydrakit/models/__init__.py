"""The network: bodies, heads and their layers."""
