"""Agents that want out, run by the command as a user runs it; the host is looked at after each."""
