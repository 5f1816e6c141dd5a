"""Outcomes, uniqueness and walk-forward folds. Pure: no storage, no network, no clock."""
