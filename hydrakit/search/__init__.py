"""Looking for settings of rounds, and for supports: never on the test split."""
