"""Indexes: where agents are published, as static files under one address."""
