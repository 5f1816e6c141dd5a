"""One class, constant forecasts, forecasts of 0 and 1, ties, one row, NaN: what every function says of each."""

from __future__ import annotations

import math

import numpy as np
import pytest

from researchkit.calibration import alarm as bets
from researchkit.calibration import (
    band,
    binned,
    dependence,
    diagonal,
    lines,
    pav,
    reliability,
    scores,
    states,
)
from researchkit.calibration.choosing import CANDIDATES, choose, make

ROWS = {
    "one class": ([0.2, 0.4, 0.6, 0.8], [1, 1, 1, 1]),
    "constant": ([0.6] * 4, [1, 0, 1, 1]),
    "0 and 1": ([0.0, 1.0, 0.0, 1.0], [0, 1, 0, 1]),
    "0 and 1, wrong": ([0.0, 1.0], [1, 0]),
    "ties": ([0.3, 0.3, 0.7, 0.7], [1, 0, 0, 1]),
    "one row": ([0.3], [1]),
}


def near(p, y):
    found = diagonal.almost_diagonal(p, y, threshold=0.5, tolerance=0.1, width=0.4)
    return found.verdict, found.rows


def together(p, y):
    day = np.arange(len(p)) // 2
    return dependence.moving_together(dependence.lives(day, day + 1, calendar=range(9)), p, y).together


def line(p, y):
    found = lines.line(p, y)
    return found.slope is None, found.citl is None


def honest(p, y):
    found = reliability.consistency(p, y, resamples=19)
    return found.mcb, found.p_value > 0.05


SAYS = {  # in the order of ROWS
    "pav": (lambda p, y: pav.pav(p, y).rate, [[1] * 4, [0.75], [0, 1], [0.5, 0.5], [0.5, 0.5], [1]]),
    "pav_curve": (
        lambda p, y: reliability.pav_curve(p, y)["n"],
        [[1] * 4, [4], [2, 2], [1, 1], [2, 2], [1]],
    ),
    "brier": (scores.brier, [0.3, 0.21, 0, 1, 0.29, 0.49]),
    "log_loss": (scores.log_loss, [0.814924, 0.612192, 0, 34.539176, 0.780324, -math.log(0.3)]),
    "skill": (lambda p, y: scores.brier_skill(p, y, base_rate=0.5), [-0.2, 0.16, 1, -3, -0.16, -0.96]),
    "skill, sure": (lambda p, y: scores.brier_skill(p, y, base_rate=1), [None, 0.16, 1, -1, 0.42, None]),
    "mcb": (lambda p, y: scores.corp(p, y).mcb, [0.3, 0.0225, 0, 0.75, 0.04, 0.49]),
    "dsc": (lambda p, y: scores.corp(p, y, score="log_loss").dsc, [0, 0, math.log(2), 0, 0, 0]),
    "table": (lambda p, y: scores.table(p, y)["unc"].item(), [0, 0.1875, 0.25, 0.25, 0.25, 0]),
    "honest worlds": (
        honest,
        [(0.3, False), (0.0225, True), (0, True), (0.75, False), (0.04, True), (0.49, True)],
    ),
    "histogram": (
        lambda p, y: reliability.histogram(p, y, bins=2)["n"],
        [[2, 2], [0, 4], [2, 2], [1, 1], [2, 2], [1, 0]],
    ),
    "murphy": (lambda p, y: binned.murphy(p, y).rel, [0.3, 0.0225, 0, 1, 0.04, 0.49]),
    "ece": (lambda p, y: binned.ece(p, y, resamples=19).value, [0.5, 0.15, 0, 1, 0.2, 0.7]),
    "squared_error": (
        lambda p, y: binned.squared_error(p, y, bins=2),
        [0.29**0.5, 0, 0, None, 0, None],
    ),
    "sharpness": (lambda p, y: binned.sharpness(p), [0.05, 0, 0.25, 0.25, 0.04, 0]),
    "line: no slope, no level": (
        line,
        [(True, True), (True, False), (True, False), (True, False), (False, False), (True, True)],
    ),
    "bias": (lambda p, y: lines.bias(p, y).value, [0.5, 0.15, 0, 0, 0, 0.7]),
    "bias, its p": (lambda p, y: lines.bias(p, y).p_value > 0.05, [True, True, True, True, True, True]),
    "spiegelhalter": (lambda p, y: lines.spiegelhalter(p, y).value, [0.1, -0.03, 0, 1, 0.08, 0.28]),
    "near the threshold": (
        near,
        [("not enough data", n) for n in (4, 4, 0, 0, 4, 1)],
    ),
    "alarm": (lambda p, y: bets.alarm(p, y).rang, [False] * 6),
    "band": (
        lambda p, y: (band.curve_band(p, y, resamples=50)["high"] - band.curve_band(p, y, resamples=50)["low"]).min() > 0,
        [True] * 6,
    ),
    "moving together": (together, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
    "by state": (
        lambda p, y: states.fit_by_state(p, y, ["a"] * len(p)).predict([0.5], ["a"]),
        [5 / 6, 0.683333, 0.5, 0.5, 0.5, 2 / 3],
    ),
    "choose": (lambda p, y: choose(p, y).name, ["none"] * 6),
}  # fmt: skip
AT_HALF = {  # what each calibrator makes of 0.5 after seeing these rows
    "none": [0.5] * 6, "temperature": [0.5] * 6, "beta-ab": [0.5] * 6,
    "platt": [5 / 6, 0.683333, 0.5, 0.5, 0.5, 2 / 3],
    "beta-am": [5 / 6, 0.683333, 0.5, 0.5, 0.5, 2 / 3],
    "beta": [5 / 6, 0.683333, 0.5, 0.5, 0.5, 2 / 3],
    "isotonic": [1, 0.75, 0.5, 0.5, 0.5, 1],
    "venn-abers": [0.75, 4 / 9, 0.5, 0.5, 0.5, 2 / 3],
}  # fmt: skip
SAYS |= {
    f"calibrator {n}": (lambda p, y, n=n: make(n).fit(p, y).predict([0.5]), AT_HALF[n]) for n in CANDIDATES
}
SAYS["moving together"] = (together, None)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("what", SAYS)
@pytest.mark.parametrize("case", ROWS)
def test_every_function_has_the_documented_answer(what, case):
    ask, answers = SAYS[what]
    said = ask(*ROWS[case])
    if answers is None:
        assert 0 <= said <= 1
        return
    want = answers[list(ROWS).index(case)]
    if isinstance(want, (str, bool)) or want is None:
        assert said == want
    elif isinstance(want, tuple):
        assert said[0] == (want[0] if isinstance(want[0], (str, bool)) else pytest.approx(want[0], abs=1e-6))
        assert said[1:] == want[1:]
    else:
        assert np.ravel(said) == pytest.approx(np.ravel(want).astype(float), abs=1e-4)


@pytest.mark.parametrize("what", SAYS)
def test_nan_is_refused_by_name(what):
    with pytest.raises(ValueError, match="p must not be NaN, got 1 NaN in 2"):
        SAYS[what][0]([0.3, float("nan")], [1, 0])
    if what != "sharpness":  # it asks for no outcomes
        with pytest.raises(ValueError, match=r"y must be 0 or 1, got \[nan\]"):
            SAYS[what][0]([0.3, 0.6], [1, float("nan")])
