"""What must hold for any forecast: order, ties, edges, classes, and no change to what was given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit.calibration.calibrators import Beta
from researchkit.calibration.choosing import CANDIDATES, FLEXIBLE, choose, make
from researchkit.calibration.pav import pav
from researchkit.calibration.reliability import consistency, histogram, pav_curve
from researchkit.calibration.scores import corp, log_loss, table

rows = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1, allow_nan=False)),
        st.integers(0, 1),
        st.floats(0.01, 1),
    ),
    min_size=1,
    max_size=40,
)
few = settings(max_examples=60, deadline=None, derandomize=True)


@few
@given(rows, st.randoms(use_true_random=False))
def test_pav_rises_keeps_the_mean_and_ignores_row_order(data, random):
    p, y, w = (np.array(c, dtype=float) for c in zip(*data, strict=True))
    curve = pav(p, y, weights=w)
    assert (np.diff(curve.rate) >= 0).all()
    assert curve.rate.min() >= 0
    assert curve.rate.max() <= 1
    assert np.sum(w * curve.fitted) == pytest.approx(np.sum(w * y), abs=1e-9)
    order = list(range(p.size))
    random.shuffle(order)
    again = pav(p[order], y[order], weights=w[order])
    assert again.rate.tobytes() == curve.rate.tobytes()
    assert corp(p[order], y[order], weights=w[order]) == corp(p, y, weights=w)


@few
@given(rows)
def test_corp_parts_are_not_negative_and_add_up(data):
    p, y, w = (np.array(c, dtype=float) for c in zip(*data, strict=True))
    for score in ("brier", "log_loss"):
        c = corp(p, y, score=score, weights=w)
        assert min(c.mcb, c.dsc, c.unc) >= 0
        assert c.mcb - c.dsc + c.unc == pytest.approx(c.score, abs=1e-9)


@few
@given(rows, st.sampled_from(CANDIDATES))
def test_every_calibrator_answers_rises_and_ignores_row_order(data, name):
    p, y, w = (np.array(c, dtype=float) for c in zip(*data, strict=True))
    kept = p.copy(), y.copy(), w.copy()
    fit = make(name).fit(p, y, w)
    grid = np.linspace(0, 1, 41)
    q = fit.predict(grid)
    assert np.isfinite(q).all()
    assert q.min() >= 0
    assert q.max() <= 1
    assert (np.diff(q) >= -1e-12).all()
    assert make(name).fit(p[::-1], y[::-1], w[::-1]).predict(grid).tobytes() == q.tobytes()
    assert all(np.array_equal(a, b) for a, b in zip(kept, (p, y, w), strict=True))


@few
@given(rows, st.sampled_from(["am", "ab", "abm"]))
def test_beta_variants_never_turn_a_forecast_around(data, variant):
    p, y, w = (np.array(c, dtype=float) for c in zip(*data, strict=True))
    fit = Beta(variant=variant).fit(p, y, w)
    assert fit.a_ >= 0
    assert fit.b_ >= 0


@few
@given(rows)
def test_histogram_counts_every_forecast_once(data):
    p, y, _ = (np.array(c, dtype=float) for c in zip(*data, strict=True))
    assert histogram(p, y)["n"].sum() == p.size
    assert pav_curve(p, y)["n"].sum() == p.size


@pytest.mark.parametrize(
    ("p", "y"),
    [([0.5], [1]), ([0.0], [1]), ([1.0, 0.0], [0, 1]), ([0.3] * 5, [0, 1, 0, 1, 1]), ([0.2, 0.8], [1, 1])],
)
def test_edges_have_answers(p, y):
    assert table(p, y, base_rate=0.5)["n"].item() == len(p)
    assert np.isfinite(log_loss(p, y))
    assert 0 < consistency(p, y, resamples=10).p_value <= 1
    for name in CANDIDATES:
        assert np.isfinite(make(name).fit(p, y).predict(p)).all()
    assert choose(p, y).name == "none"


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize(
    ("p", "y", "w", "words"),
    [
        ([float("nan")], [1], None, "NaN"),
        ([50.0], [1], None, r"\[0, 1\]"),
        ([-0.1], [1], None, r"\[0, 1\]"),
        ([float("inf")], [1], None, r"\[0, 1\]"),
        ([0.5], [2], None, "y must be 0 or 1"),
        ([0.5], [float("nan")], None, "y must be 0 or 1"),
        ([0.5, 0.5], [1], None, "equally long"),
        ([], [], None, "empty"),
        ([[0.5, 0.5]], [1], None, "1-d"),
        ([0.5], [1], [-1.0], "0 or more"),
        ([0.5], [1], [float("nan")], "finite"),
        ([0.5], [1], [0.0], "all zero"),
    ],
)
def test_bad_input_is_named(name, p, y, w, words):
    with pytest.raises(ValueError, match=words):
        make(name).fit(p, y, w)


def test_weight_is_the_same_as_repetition():
    p, y = np.array([0.2, 0.4, 0.6, 0.9]), np.array([0, 1, 0, 1.0])
    w = np.array([1, 3, 2, 4])
    for name in CANDIDATES:
        weighted = make(name).fit(p, y, w).predict([0.1, 0.5, 0.95])
        repeated = make(name).fit(np.repeat(p, w), np.repeat(y, w)).predict([0.1, 0.5, 0.95])
        assert weighted == pytest.approx(repeated, abs=1e-7)


def test_choose_takes_a_flexible_curve_only_with_enough_rows():
    rng = np.random.default_rng(0)
    p = rng.random(6000)
    y = (rng.random(6000) < np.where(p < 0.5, 0.2, 0.8)).astype(
        float
    )  # a step, which no smooth curve follows
    found = choose(p, y)
    assert found.name in FLEXIBLE
    assert found.table["name"].to_list() == list(CANDIDATES)
    assert choose(p, y, weights=np.full(6000, 0.1)).name not in FLEXIBLE


def test_the_simplest_within_one_standard_error_is_taken_in_the_stated_order():
    """The rule, recomputed from the table that the choice carries; and beta-am is Platt to the last bit."""
    rng = np.random.default_rng(1)
    chance = rng.uniform(0.2, 0.8, 3000)
    y = (rng.random(3000) < chance).astype(float)
    for bold, hope in ((1, 0), (2, 0), (1, 0.7), (2, 0.7), (0.2, 0)):
        s = bold * np.log(chance / (1 - chance)) + hope
        found = choose(1 / (1 + np.exp(-s)), y, block=5)
        rows = found.table.to_dicts()
        near = [r["name"] for r in rows if r["excess"] <= r["se"]]
        assert found.name == near[0]
        assert [r["name"] for r in rows] == list(CANDIDATES)
        by = {r["name"]: r for r in rows}
        assert by["beta-am"]["log_loss"] == by["platt"]["log_loss"]
        assert found.name != "beta-am"
