"""What keeps folders of runs whole, and the commands that look after them."""
