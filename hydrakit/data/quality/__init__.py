"""What can be wrong with data: duplicates, leaks, shortcuts, and how cases are split."""
