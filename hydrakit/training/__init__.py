"""What training a round consists of: examples, updates, figures, the chosen epoch."""
