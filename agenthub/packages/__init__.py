"""Where agents come from, and what is installed."""
