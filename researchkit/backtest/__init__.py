"""Fills, costs, metrics and baselines. Pure: no storage, no network, no clock."""
