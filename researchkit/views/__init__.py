"""Figures and widgets: frames in, figure out. Nothing is computed here that another room should."""

from researchkit.views.comparison import against, verdicts
from researchkit.views.diagrams import reliability, reliability_folds
from researchkit.views.figures import drawdown, equity_curves, tearsheet

__all__ = ["against", "drawdown", "equity_curves", "reliability", "reliability_folds", "tearsheet", "verdicts"]
