"""One run: its rounds, its folder, and what is read from it."""
