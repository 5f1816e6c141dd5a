"""The room's numbers against scikit-learn's, and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import _sigmoid_calibration
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from researchkit.calibration.calibrators import Beta, Isotonic, Platt
from researchkit.calibration.dependence import block_se
from researchkit.calibration.pav import pav
from researchkit.calibration.scores import brier, corp, log_loss


def sample(n=800, seed=0, ties=True):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.98, n)
    p = np.round(p, 2) if ties else p
    y = (rng.random(n) < p**1.5).astype(float)
    return p, y, rng.uniform(0.1, 1.0, n)


@pytest.mark.parametrize("seed", range(3))
def test_scores_agree_with_sklearn(seed):
    p, y, w = sample(seed=seed)
    assert brier(p, y, weights=w) == pytest.approx(brier_score_loss(y, p, sample_weight=w), abs=1e-12)
    assert log_loss(p, y, weights=w) == pytest.approx(sklearn_log_loss(y, p, sample_weight=w), abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_isotonic_agrees_with_sklearn(weighted):
    p, y, w = sample()
    w = w if weighted else None
    grid = np.linspace(0, 1, 501)
    peer = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, y, sample_weight=w)
    assert Isotonic().fit(p, y, w).predict(grid) == pytest.approx(peer.predict(grid), abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_platt_agrees_with_sklearn_on_log_odds(weighted):
    p, y, w = sample(ties=False)
    w = w if weighted else None
    a, b = _sigmoid_calibration(np.log(p / (1 - p)), y, sample_weight=w)
    ours = Platt().fit(p, y, w)
    assert (ours.slope_, ours.intercept_) == pytest.approx((-a, -b), abs=1e-4)


def test_platt_without_smoothing_is_plain_logistic_regression():
    p, y, w = sample(ties=False)
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.log(p / (1 - p))[:, None], y, sample_weight=w
    )
    ours = Platt(smooth=False).fit(p, y, w)
    assert ours.slope_ == pytest.approx(peer.coef_[0, 0], abs=1e-5)
    assert ours.intercept_ == pytest.approx(peer.intercept_[0], abs=1e-5)
    smooth = Platt().fit(p[:40], y[:40])
    assert abs(smooth.slope_) < abs(Platt(smooth=False).fit(p[:40], y[:40]).slope_)


def test_beta_without_smoothing_is_kulls_logistic_regression():
    p, y, w = sample(ties=False)
    columns = np.column_stack([np.log(p), -np.log1p(-p)])
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=2000).fit(columns, y, sample_weight=w)
    assert peer.coef_.min() > 0, "the sample must not need Kull's rule for negative terms"
    ours = Beta(smooth=False).fit(p, y, w)
    assert (ours.a_, ours.b_) == pytest.approx(tuple(peer.coef_[0]), abs=1e-4)
    assert ours.c_ == pytest.approx(peer.intercept_[0], abs=1e-4)
    half = Beta(variant="ab").fit(p, y)
    assert half.predict([0.5]) == pytest.approx([0.5], abs=1e-12)


def test_beta_drops_a_negative_term_and_fits_again():
    p, _, _ = sample(n=4000, ties=False)
    truth = 1 / (1 + np.exp(-(np.log(p) + 0.5 * np.log1p(-p) + 1.0)))  # b = -0.5: falls near one
    y = (np.random.default_rng(1).random(p.size) < truth).astype(float)
    fit = Beta(smooth=False).fit(p, y)
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=2000).fit(np.log(p)[:, None], y)
    assert fit.b_ == 0
    assert fit.a_ == pytest.approx(peer.coef_[0, 0], abs=1e-4)


def test_newton_stays_where_the_loss_is_least():
    for seed in range(20):  # no worse than a search around the answer
        p, y, w = sample(n=60, seed=seed)
        fit = Platt(smooth=False).fit(p, y, w)
        s = np.log(np.clip(p, 1e-6, 1 - 1e-6) / (1 - np.clip(p, 1e-6, 1 - 1e-6)))

        def loss(a, b, s=s, y=y, w=w):
            return np.sum(w * (np.logaddexp(0, a * s + b) - y * (a * s + b)))

        best = loss(fit.slope_, fit.intercept_)
        for da, db in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
            assert best <= loss(fit.slope_ + da, fit.intercept_ + db) + 1e-9


def test_pav_is_the_min_max_formula():
    p, y, w = sample(n=30, seed=5)
    curve = pav(p, y, weights=w)
    hits = np.bincount(curve.row, weights=w * y)
    k = curve.p.size
    mean = [
        [hits[a : b + 1].sum() / curve.weight[a : b + 1].sum() if a <= b else np.nan for b in range(k)]
        for a in range(k)
    ]
    brute = [max(min(mean[a][b] for b in range(i, k)) for a in range(i + 1)) for i in range(k)]
    assert curve.rate == pytest.approx(brute, abs=1e-12)


def test_corp_mcb_cannot_be_improved_by_any_rising_map():
    p, y, _ = sample()
    c = corp(p, y)
    for power in (0.3, 0.7, 1.0, 1.5, 3.0):
        assert brier(p**power, y) >= c.score - c.mcb - 1e-15


def test_block_se_is_the_circular_block_bootstrap():
    rng = np.random.default_rng(0)
    v = np.convolve(rng.normal(size=300), np.ones(5), mode="valid")
    b, n = 8, v.size - v.size % 8
    v = v[:n]
    starts = rng.integers(0, n, size=(20_000, n // b))
    rows = (starts[:, :, None] + np.arange(b)) % n
    assert block_se(v, block=b) == pytest.approx(v[rows].mean(axis=(1, 2)).std(), rel=0.02)
