"""Probabilities that mean what they say. Pure: no storage, no network, no clock."""
