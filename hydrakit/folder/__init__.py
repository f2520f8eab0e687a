"""What keeps folders whole: files that appear whole, digests, locks and formats."""
