"""Fills, costs, metrics and baselines. Pure: no storage, no network, no clock."""

from researchkit.backtest.costs import Costs

__all__ = ["Costs"]
