"""Combinatorial folds never overlap, pipelines forget, meta-labels mirror, and trend scans know when they are known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import comb

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit import frames
from researchkit.errors import LookAheadError
from researchkit.features.replay import replay
from researchkit.labels.barriers import outcomes
from researchkit.labels.combinatorial import combinatorial, select_test, select_train
from researchkit.labels.metalabels import meta_labels, meta_outcomes
from researchkit.labels.trendscan import trend_labels, trend_scans
from researchkit.labels.uniqueness import average_uniqueness

FIRST = datetime(2004, 1, 1, tzinfo=UTC)
few = settings(max_examples=30, deadline=None)


def labels_of(lives: list[int]) -> pl.DataFrame:
    """A decision a day, each with its own life."""
    days = [FIRST + timedelta(days=i) for i in range(len(lives))]
    ends = [day + timedelta(days=life) for day, life in zip(days, lives, strict=True)]
    rows = pl.DataFrame({"ts_known": days, "symbol": "S", "ts_end": ends, "label": 1, "weight": 1.0})
    return frames.conform(rows, frames.LABELS)


def bars_of(closes: np.ndarray, symbol: str = "S", width: float = 0.004) -> pl.DataFrame:
    start = [FIRST + timedelta(days=i) for i in range(closes.size)]
    prices = {"open": closes, "high": closes * (1 + width), "low": closes * (1 - width), "close": closes}
    known = pl.col("ts_event") + timedelta(days=1)
    rows = pl.DataFrame({"ts_event": start, "symbol": symbol, **prices, "volume": 1})
    return frames.conform(rows.with_columns(ts_known=known, ts_published=known), frames.BARS)


def walk(n: int, seed: int = 0) -> np.ndarray:
    return 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, n)))


# --- combinatorial ---


@few
@given(st.integers(2, 7), st.data(), st.integers(0, 6), st.integers(0, 10_000))
def test_no_training_label_meets_a_test(groups, data, embargo, seed):
    tests = data.draw(st.integers(1, groups - 1))
    lives = np.random.default_rng(seed).integers(0, 9, 84).tolist()
    labels = labels_of(lives)
    splits = combinatorial(labels, groups=groups, tests=tests, embargo=embargo)
    assert len(splits) == comb(groups, tests)
    assert len(splits.paths) == comb(groups, tests) * tests // groups
    proof = splits.audit(labels)
    assert (proof["before"].drop_nulls() >= 1).all()
    assert (proof["after"].drop_nulls() > embargo).all()
    for split in splits:
        train = select_train(labels, split, labels, splits)["ts_known"].to_list()
        held = select_test(labels, split)
        for t in train:
            i = (t - FIRST).days
            mine = range(i, i + lives[i] + 1)
            for u in held["ts_known"]:
                j = (u - FIRST).days
                tested = range(j, j + lives[j] + 1)
                assert mine[-1] < tested[0] or mine[0] > tested[-1] + (embargo if mine[0] > j else 0)


def test_each_path_scores_every_group_once_and_no_pair_twice():
    splits = combinatorial(labels_of([1] * 60), groups=6, tests=2)
    assert (len(splits), len(splits.paths)) == (15, 5)
    pairs = [(group, split) for path in splits.paths for group, split in enumerate(path)]
    assert len(set(pairs)) == len(pairs) == 30


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_planted_overlap_is_caught_on_either_side(side):
    labels = labels_of([3] * 60)
    splits = combinatorial(labels, groups=6, tests=1, embargo=1)
    rows = [select_train(labels, s, labels, splits) for s in splits]
    day = 19 if side == "before" else 33  # the test is days 20 to 29, its labels end on day 32
    planted = labels[day : day + 1]
    rows[2] = pl.concat([rows[2], planted]).sort("ts_known")
    with pytest.raises(
        LookAheadError, match=r"split 2: the label of S .* overlaps the test from session 20 to 32"
    ):
        splits.audit(labels, rows=rows)


# --- uniqueness ---


def test_weights_do_not_depend_on_the_order_of_the_lives():
    rng = np.random.default_rng(1)
    first = rng.integers(0, 500, 300)
    last = first + rng.integers(0, 20, 300)
    weights = average_uniqueness(first, last)
    order = rng.permutation(300)
    assert (average_uniqueness(first[order], last[order]) == weights[order]).all()


# --- barriers with sides, meta-labels ---


@few
@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from(["close", "range"]))
def test_a_short_is_a_long_in_the_mirror(seed, horizon, path):
    """Short on prices p is long on prices 2c - p around a constant c, where the fill is c."""
    rng = np.random.default_rng(seed)
    up = 100 + np.concatenate([[0, 0], np.cumsum(rng.normal(0, 1, 30))])
    down = 200 - up
    rule = {"up": 1.5, "down": 1.0, "horizon": horizon, "vol": "sigma", "path": path}

    def made(closes, side):
        bars = bars_of(closes, width=0.0)
        bars = bars.with_columns(high=pl.col("close") + 0.5, low=pl.col("close") - 0.5)
        asked = bars.select("ts_known", "symbol").head(1).with_columns(sigma=0.01, side=side)
        return outcomes(bars, asked, side="side", **rule)

    long, short = made(down, 1), made(up, -1)
    assert long.select("ts_end", "touched", "label", "bars").equals(
        short.select("ts_end", "touched", "label", "bars")
    )
    np.testing.assert_allclose(long["ret"].to_numpy(), short["ret"].to_numpy(), atol=1e-12)


def test_meta_labels_say_whether_the_position_earned_its_target():
    bars = bars_of(walk(400))
    signals = bars.select("ts_known", "symbol", target=pl.Series(np.sign(walk(400, 1) - 100)))
    table = meta_outcomes(bars, signals, up=2.0, down=2.0, horizon=8)
    assert set(table["side"]) == {-1, 1}
    hit = table.filter(pl.col("touched") == "target")
    assert (hit["label"] == 1).all()
    assert (hit["ret"] > 0).all()
    assert (table.filter(pl.col("touched") == "stop")["ret"] < 0).all()
    assert (table["ts_end"] > table["ts_known"]).all()


def test_meta_labels_hold_what_they_say_about_time():
    def labels(bars: pl.DataFrame) -> pl.DataFrame:
        moved = (pl.col("close") - pl.col("close").shift(10)).sign().over("symbol", order_by="ts_event")
        signals = bars.select("ts_known", "symbol", target=moved).drop_nulls()
        return meta_labels(bars, signals, up=2.0, down=1.0, horizon=6, path="range")

    assert replay(labels, bars_of(walk(300)), cuts=6).cells > 0


# --- trend scans ---


@few
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(0, 8))
def test_trend_scans_equal_ordinary_least_squares(seed, shortest, more):
    longest = shortest + more
    closes = walk(60, seed)
    bars = bars_of(closes)
    got = trend_scans(bars, bars.select("ts_known", "symbol"), shortest=shortest, longest=longest)
    for row, entry in zip(got.to_dicts(), range(1, 60), strict=False):
        best = 0.0
        for h in range(shortest, longest + 1):
            x, y = np.arange(h + 1.0), closes[entry : entry + h + 1]
            slope, cut = np.polyfit(x, y, 1)
            left = ((y - cut - slope * x) ** 2).sum() / (h - 1)
            t = slope / np.sqrt(left / ((x - x.mean()) ** 2).sum()) if left > 0 else 0.0
            best = t if abs(t) > abs(best) else best
        assert row["t_value"] == pytest.approx(best, rel=1e-5)
        assert row["label"] == np.sign(best)
        assert row["ts_end"] == bars["ts_known"][entry + longest]


def test_trend_labels_are_known_at_the_end_of_the_longest_horizon_and_not_before():
    bars = pl.concat([bars_of(walk(120), "A"), bars_of(walk(120, 3), "B")]).sort("ts_event", "symbol")

    def honest(bars: pl.DataFrame) -> pl.DataFrame:
        return trend_labels(bars, bars.select("ts_known", "symbol"), shortest=3, longest=12)

    def hasty(bars: pl.DataFrame) -> pl.DataFrame:
        return honest(bars).with_columns(pl.col("ts_end") - timedelta(days=1))

    assert replay(honest, bars, cuts=6).cells > 0
    with pytest.raises(LookAheadError, match="hasty: "):
        replay(hasty, bars, cuts=6)
