"""One run: its session, network, folder, round cache, evaluation and dry run."""
