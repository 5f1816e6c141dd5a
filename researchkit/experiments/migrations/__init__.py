"""Revisions of the warehouse, in the order they run."""
