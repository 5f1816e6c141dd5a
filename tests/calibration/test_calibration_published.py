"""Worked examples that others have published, each with the address at which its numbers were read."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from researchkit.calibration.calibrators import Beta, Platt
from researchkit.calibration.scores import corp
from researchkit.calibration.vennabers import VennAbers

# Forty scores and outcomes, and what betacal says of them: github.com/betacal/python, tests/test_beta_calibration.py.
SAID = """0.43155171 0.81164906 0.66544901 0.53177918 0.15549116 0.16259166 0.36480309 0.81877874 0.94360637 0.73610746
0.55979712 0.85662239 0.38039252 0.7806386 0.38548359 0.7468978 0.26136641 0.21377051 0.01270956 0.05394571
0.51571459 0.31820521 0.65717799 0.25428535 0.45378324 0.62464611 0.20519146 0.87777557 0.11439908 0.53848995
0.64487573 0.08061064 0.46484883 0.40406019 0.81670188 0.9357303 0.40183604 0.09328503 0.9462795 0.26967112"""
CAME = "0110000111011000000010000100001001110010"
BETACAL = {  # the first, second, ninth and nineteenth of their forty answers
    "abm": (2.18699178e-01, 7.40477707e-01, 8.88079905e-01, 1.08002409e-05),
    "am": (0.20860378, 0.74055384, 0.94834425, 0.00097979),
    "ab": (3.87442638e-01, 8.18673874e-01, 8.78265398e-01, 1.09063736e-05),  # their "a", see below
}


@pytest.mark.parametrize("variant", BETACAL)
def test_beta_says_what_betacal_says(variant):
    """On the log-odds, within what betacal's solver leaves open.

    With both slopes free through one half, the best curve on these rows has b < 0 and falls near 1: betacal's own "ab"
    says 0.8199 at 0.878 and 0.8073 at 0.944. A forecast is never turned around here: b is dropped, which leaves their "a".
    """
    p, y = np.array(SAID.split(), dtype=float), np.array([float(c) for c in CAME])
    fit = Beta(variant=variant, smooth=False).fit(p, y)
    ours, theirs = fit.predict(p)[[0, 1, 8, 18]], np.array(BETACAL[variant])
    assert np.log(ours / (1 - ours)) == pytest.approx(np.log(theirs / (1 - theirs)), abs=2e-3)
    assert (fit.b_ == 0) == (variant == "ab")


def test_platt_says_what_libsvm_says():
    """Lin's code in LibSVM on scores 5, -4, 1 with targets 1, 0, 0: A = -0.20261, B = 0.65236.

    Read in test_sigmoid_calibration of github.com/scikit-learn/scikit-learn, sklearn/tests/test_calibration.py.
    """
    score = np.array([5.0, -4.0, 1.0])
    fit = Platt().fit(1 / (1 + np.exp(-score)), [1, 0, 0])
    assert (-fit.slope_, -fit.intercept_) == pytest.approx(
        (-0.20261354391187855, 0.65236314980010512), abs=1e-5
    )


def test_venn_abers_on_three_rows_by_hand():
    """The definition (Vovk and Petej 2014, arxiv.org/abs/1211.0025) on 0.2, 0.6, 0.8 with outcomes 0, 1, 1.

    At 0.4 as a 0 the curve is 0, 0, 1, 1; as a 1 it is 0, 1, 1, 1. At 0.7 as a 0, the 1 before it pools with it.
    """
    fit = VennAbers().fit([0.2, 0.6, 0.8], [0, 1, 1])
    low, high = fit.interval([0.4, 0.7])
    assert low == pytest.approx([0.0, 0.5])
    assert high == pytest.approx([1.0, 1.0])
    assert fit.predict([0.4, 0.7]) == pytest.approx([1.0 / 2.0, 1 / 1.5])


def test_corp_is_the_difference_of_three_mean_scores():
    """MCB, DSC and UNC as the reliabilitydiag package defines them: rdrr.io/cran/reliabilitydiag/man/summary.reliabilitydiag.html.

    Its own example is the rain of Niamey, which is published as a binary R file only, so the definition is reproduced on
    rows that anybody can type, with another library's isotonic regression.
    """
    p, y = np.array(SAID.split(), dtype=float), np.array([float(c) for c in CAME])
    fitted = IsotonicRegression().fit(p, y).predict(p)
    given, best, flat = (np.mean((q - y) ** 2) for q in (p, fitted, np.full(40, y.mean())))
    found = corp(p, y)
    assert (found.mcb, found.dsc, found.unc) == pytest.approx((given - best, flat - best, flat), abs=1e-12)
