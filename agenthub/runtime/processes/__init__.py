"""One process tree: its bytes, its deadline, what it takes, its death."""
