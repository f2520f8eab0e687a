"""Search for settings of rounds and for support datasets, without the test split."""
