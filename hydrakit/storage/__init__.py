"""Files on disk: written whole, read within limits, locked, and checked by digest."""
