"""Who made what is installed, whether it still is that, and what is known against it."""
