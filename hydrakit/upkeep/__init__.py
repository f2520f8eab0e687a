"""Looking after folders of runs: how far they are, whether they are whole, what nobody needs."""
