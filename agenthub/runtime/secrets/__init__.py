"""Secrets: where they are kept, and which a run is given."""
