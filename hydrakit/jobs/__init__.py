"""Jobs: plans to train, each in a folder of its own, and the processes that run them."""
