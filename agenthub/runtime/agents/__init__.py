"""What is done with an agent besides running it: install, describe, validate, diagnose."""
