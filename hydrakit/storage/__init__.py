"""Files on disk: atomic writing, bounded reading, locks and digests."""
