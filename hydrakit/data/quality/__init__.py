"""Data quality: duplicates, leakage between splits, shortcuts, and splitting by patient."""
