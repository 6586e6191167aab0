"""Agents on their way to another machine: bundles that need no network there, and a user's whole setup."""
