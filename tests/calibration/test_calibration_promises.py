"""A small sample of the study: tests hold their level, and the naive ones do not; oracles for what is new."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "studies"))

from calibration import Maker, count

from researchkit.calibration.band import curve_band
from researchkit.calibration.calibrators import Beta, Isotonic, Platt
from researchkit.calibration.lines import line
from researchkit.calibration.vennabers import VennAbers

WORLDS = 60


def test_tests_hold_their_level_and_naive_ones_do_not():
    rates = count("tests", Maker("overlap 10"), WORLDS, None)
    aware = {k: v[0] for k, v in rates.items() if k.endswith("aware")}
    naive = {k: v[0] for k, v in rates.items() if k.endswith("naive")}
    assert max(aware.values()) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / WORLDS), aware
    assert min(naive.values()) > 0.2, naive


def test_near_the_threshold_an_error_of_the_tolerance_seldom_passes():
    rates = count("near", Maker("at the tolerance", n=3000, shift=0.1), WORLDS, None)
    assert rates["pass|aware"][0] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / WORLDS)
    assert rates["pass|naive"][0] > 0.1


def test_errors_of_the_slope_are_those_of_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(0)
    p = rng.uniform(0.1, 0.9, 500)
    y = (rng.random(500) < p).astype(float)
    x = np.column_stack([np.ones(500), np.log(p) - np.log1p(-p)])
    theirs = sm.GLM(y, x, family=sm.families.Binomial()).fit(cov_type="HC0")
    ours = line(p, y)
    np.testing.assert_allclose([ours.intercept, ours.slope], theirs.params, atol=1e-6)
    np.testing.assert_allclose([ours.intercept_se, ours.slope_se], theirs.bse, rtol=1e-4)


def test_venn_abers_is_its_recipe_with_ties_and_many_rows():
    rng = np.random.default_rng(1)
    for n, digits in ((7, 1), (300, 2), (300, 8)):
        p = np.round(rng.random(n), digits)
        y = (rng.random(n) < p).astype(float)
        new = np.concatenate([p[:15], rng.random(15), [0.0, 1.0]])
        pair = VennAbers().fit(p, y).interval(new)
        for outcome in (0, 1):
            for s, value in zip(new, pair[outcome], strict=True):
                plain = IsotonicRegression(out_of_bounds="clip").fit(np.append(p, s), np.append(y, outcome))
                assert abs(plain.predict([s])[0] - value) < 1e-9


def test_band_is_the_plain_loop_within_its_noise():
    rng = np.random.default_rng(2)
    p = rng.uniform(0.2, 0.8, 4000)
    y = (rng.random(4000) < p).astype(float)
    ours = curve_band(p, y, overlap=5, cells=400, resamples=400)
    at, rates = ours["p"].to_numpy(), np.empty((400, ours.height))
    for r in range(400):
        rows = (rng.integers(0, 267, 267)[:, None] * 15 + np.arange(15)).ravel()
        rows = rows[rows < 4000]
        rates[r] = IsotonicRegression(out_of_bounds="clip").fit(p[rows], y[rows]).predict(at)
    low, high = np.quantile(rates, [0.05, 0.95], axis=0)
    assert np.abs(ours["low"].to_numpy() - low).mean() < 0.1 * (high - low).mean()
    assert np.abs(ours["high"].to_numpy() - high).mean() < 0.1 * (high - low).mean()


def test_sorted_rows_without_ties_give_the_same_bits_as_any_order():
    rng = np.random.default_rng(3)
    p = np.sort(rng.random(1000))
    y = (rng.random(1000) < p).astype(float)
    mixed = rng.permutation(1000)
    for kind in (Platt, Beta, Isotonic, VennAbers):
        one, two = kind().fit(p, y).predict(p), kind().fit(p[mixed], y[mixed]).predict(p)
        assert one.tobytes() == two.tobytes()
