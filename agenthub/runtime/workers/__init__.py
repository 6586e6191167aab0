"""Agents that are kept loaded, and fork a fresh process for each run."""
