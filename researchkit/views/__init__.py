"""Figures and widgets: frames in, figure out. Nothing is computed here that another room should."""

from researchkit.views.comparison import against, verdicts
from researchkit.views.diagrams import reliability, reliability_folds
from researchkit.views.figures import drawdown, equity_curves, tearsheet
from researchkit.views.parity import ParityWidget, parity_ladder
from researchkit.views.sheet import Measures, tear_sheet
from researchkit.views.stress import stress_sheet
from researchkit.views.waterfall import waterfall

__all__ = [
    "Measures",
    "ParityWidget",
    "against",
    "drawdown",
    "equity_curves",
    "parity_ladder",
    "reliability",
    "reliability_folds",
    "stress_sheet",
    "tear_sheet",
    "tearsheet",
    "verdicts",
    "waterfall",
]
