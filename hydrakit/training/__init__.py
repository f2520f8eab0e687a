"""Training of one round: loop, epochs, batches, evaluation, selection, checkpoints and seeds."""
