"""What to compute on: devices, precision, threads, processes, and signals that stop it."""
