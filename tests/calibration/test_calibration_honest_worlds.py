"""The consistency test keeps its size when labels overlap; independent coins do not."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from researchkit.calibration.dependence import Lives, lives
from researchkit.calibration.reliability import consistency


def honest(seed, *, horizon=10, sessions=300, symbols=2, together=0.85):
    """An honest forecaster of the sign of the next `horizon` sessions, whose forecasts drift slowly."""
    rng = np.random.default_rng(seed)
    shape = (sessions + horizon + 1, symbols)
    shock = np.sqrt(together) * rng.normal(size=(shape[0], 1)) + np.sqrt(1 - together) * rng.normal(
        size=shape
    )
    view = np.zeros((sessions, symbols))
    for t in range(1, sessions):
        view[t] = 0.95 * view[t - 1] + 0.3 * rng.normal(size=symbols)
    move = np.array([shock[t + 1 : t + 1 + horizon].sum(axis=0) for t in range(sessions)]) / np.sqrt(horizon)
    day = np.repeat(np.arange(sessions), symbols)
    open_for = lives(
        day, day + horizon, symbols=[str(s) for s in range(symbols)] * sessions,
        calendar=np.arange(sessions + horizon),
    )  # fmt: skip
    return norm.cdf(0.3 * view).ravel(), (move < 0.3 * view).astype(float).ravel(), open_for


def test_size_under_overlap():
    overlapping, coins = [], []
    for seed in range(60):
        p, y, open_for = honest(seed)
        overlapping.append(consistency(p, y, resamples=39, lives=open_for).p_value)
        if seed < 20:
            coins.append(consistency(p, y, resamples=39).p_value)
    assert np.mean(np.array(overlapping) <= 0.05) < 0.15  # 5 % expected
    assert 0.35 < np.mean(overlapping) < 0.65
    assert np.mean(np.array(coins) <= 0.05) > 0.5  # the negative control: coins convict the innocent


def test_power_against_a_loud_forecaster():
    found = []
    for seed in range(10):
        p, y, open_for = honest(seed, sessions=1500)
        loud = 1 / (1 + (1 / p - 1) ** 3)
        found.append(consistency(loud, y, resamples=39, lives=open_for).p_value)
    assert np.mean(np.array(found) <= 0.05) > 0.7


def test_band_covers_pointwise():
    inside = []
    for seed in range(30):
        p, y, open_for = honest(seed)
        judged = consistency(p, y, resamples=99, lives=open_for)
        from researchkit.calibration.reliability import pav_curve

        rate = pav_curve(p, y)["rate"]
        inside.append(((rate >= judged.band["low"]) & (rate <= judged.band["high"])).mean())
    assert np.mean(inside) == pytest.approx(0.9, abs=0.07)


def test_band_at_chosen_points_is_the_band():
    rng = np.random.default_rng(0)
    p = np.round(rng.random(200), 2)
    y = (rng.random(200) < p).astype(float)
    whole = consistency(p, y, resamples=50).band
    some = consistency(p, y, resamples=50, at=whole["p"][::7]).band
    assert some.equals(whole.filter(pl.col("p").is_in(some["p"].to_list())))


def test_worlds_have_the_overlap_of_the_labels():
    from researchkit.calibration.reliability import _honest_worlds

    n, horizon = 400, 8
    row = np.arange(n, dtype=np.int64)
    open_for = Lives(row, row + horizon, np.zeros(n, dtype=np.int64))
    worlds = np.array(list(_honest_worlds(np.full(n, 0.5), open_for, resamples=400, seed=0))).astype(float)
    centred = worlds - 0.5
    for lag in (1, 4, 8):
        latent = max(0.0, 1 - lag / horizon)
        binary = 2 / np.pi * np.arcsin(latent)  # Sheppard
        found = 4 * np.mean(centred[:, lag:] * centred[:, :-lag])
        assert found == pytest.approx(binary, abs=0.03)
