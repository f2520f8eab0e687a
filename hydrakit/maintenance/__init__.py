"""Looking after finished folders: status, verification, and removing what is not needed."""
