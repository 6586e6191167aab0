"""Projects: the agents that a directory asks for, what a lock fixes of them, and a machine that is made so."""
