"""Properties of folds, uniqueness and barriers, on small generated cases."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit import frames
from researchkit.errors import LookAheadError, SchemaError
from researchkit.labels import walkforward
from researchkit.labels.barriers import outcomes, triple_barrier
from researchkit.labels.uniqueness import average_uniqueness, concurrency

FIRST = datetime(2004, 1, 1, tzinfo=UTC)
few = settings(max_examples=40, deadline=None)


def calendar(n: int) -> pl.Series:
    return pl.Series("ts_known", [FIRST + timedelta(days=i) for i in range(n)]).cast(frames.INSTANT)


def labels_of(life: int, n: int) -> pl.DataFrame:
    days = calendar(n)
    ends = days + timedelta(days=life)
    rows = pl.DataFrame({"ts_known": days, "symbol": "S", "ts_end": ends, "label": 1, "weight": 1.0})
    return frames.conform(rows, frames.LABELS)


sizes = st.tuples(st.integers(5, 120), st.integers(1, 40), st.integers(1, 30), st.integers(0, 10))


@few
@given(sizes, st.sampled_from(["anchored", "rolling"]))
def test_fold_counts_and_bounds(size, shape):
    n, train, test, purge = size
    make = getattr(walkforward, shape)
    if n <= train + purge:
        with pytest.raises(ValueError, match="too few for one fold"):
            make(calendar(n), train=train, test=test, purge=purge)
        return
    folds = make(calendar(n), train=train, test=test, purge=purge)
    assert len(folds) == math.ceil((n - train - purge) / test)
    scored = [
        t
        for f in folds
        for t in walkforward.select_test(pl.DataFrame({"ts_known": calendar(n)}), f)["ts_known"]
    ]
    assert scored == calendar(n)[train + purge :].to_list()
    for f in folds:
        gap = [t for t in folds.sessions if f.train[1] <= t < f.test[0]]
        assert len(gap) == purge
        assert f.train_sessions == (train if shape == "rolling" else train + f.number * test)
    whole = (n - train - purge) // test
    if whole:
        assert len(make(calendar(n), train=train, test=test, purge=purge, short="drop")) == whole


@few
@given(sizes, st.integers(1, 60))
def test_folds_do_not_change_when_sessions_arrive(size, more):
    n, train, test, purge = size
    if n <= train + purge:
        return
    early = walkforward.anchored(calendar(n), train=train, test=test, purge=purge)
    late = walkforward.anchored(calendar(n + more), train=train, test=test, purge=purge)
    for a, b in zip(early, late, strict=False):
        assert a.train == b.train
        assert a.test[0] == b.test[0]


@few
@given(st.integers(0, 12), st.integers(1, 12))
def test_audit_fails_exactly_when_the_gap_is_too_short(purge, life):
    folds = walkforward.anchored(calendar(90), train=30, test=20, purge=purge)
    labels = labels_of(life, 90)
    if purge >= life:
        assert folds.audit(labels).height == len(folds)
    else:
        with pytest.raises(LookAheadError, match=f"purge at least {life} sessions"):
            folds.audit(labels)
    for fold in folds:
        kept = walkforward.select_train(labels, fold, labels)
        assert (kept["ts_end"] < fold.test[0]).all()
        assert kept.height == fold.train_sessions - max(0, life - purge)


def test_counts_of_the_demo_size():
    """1999–2013 has about 3,770 sessions: eleven whole folds and a short one, the gap not eaten from the training."""
    folds = walkforward.anchored(calendar(3773), train=1000, test=250, purge=10)
    assert len(folds) == 12
    assert folds[0].train_sessions == 1000
    assert folds[11].test_sessions == 3773 - 1010 - 11 * 250


lives = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), min_size=1, max_size=40)


@few
@given(lives)
def test_uniqueness_equals_the_definition(pairs):
    first = np.array([a for a, _ in pairs])
    last = np.array([a + w for a, w in pairs])
    alive = [sum(a <= t <= b for a, b in zip(first, last, strict=True)) for t in range(last.max() + 1)]
    assert concurrency(first, last).tolist() == alive
    naive = [np.mean([1 / alive[t] for t in range(a, b + 1)]) for a, b in zip(first, last, strict=True)]
    weights = average_uniqueness(first, last)
    np.testing.assert_allclose(weights, naive, rtol=1e-12)
    assert ((weights > 0) & (weights <= 1)).all()


def bars_of(closes, width=0.01, symbol="S"):
    c = np.asarray(closes, dtype=float)
    start = [FIRST + timedelta(days=i) for i in range(c.size)]
    prices = {"open": c, "high": c * (1 + width), "low": c * (1 - width), "close": c, "volume": 1}
    known = pl.col("ts_event") + timedelta(days=1)
    rows = pl.DataFrame({"ts_event": start, "symbol": symbol, **prices})
    return frames.conform(rows.with_columns(ts_known=known, ts_published=known), frames.BARS)


def naive_label(close, high, low, t, sigma, up, down, horizon):
    """Walk one trade by hand; None while undecided."""
    entry = t + 1
    if entry >= len(close):
        return None
    target, stop = close[entry] * (1 + up * sigma), close[entry] * (1 - down * sigma)
    for i in range(entry + 1, entry + horizon + 1):
        if i >= len(close):
            return None
        if low[i] <= stop:
            return 0, i
        if high[i] >= target:
            return 1, i
    return 0, entry + horizon


@few
@given(
    st.integers(0, 10_000),
    st.integers(1, 8),
    st.floats(0.3, 3),
    st.floats(0.3, 3),
    st.sampled_from(["close", "range"]),
)
def test_barriers_equal_a_plain_loop(seed, horizon, up, down, path):
    rng = np.random.default_rng(seed)
    bars = bars_of(100 * np.exp(np.cumsum(rng.normal(0, 0.01, 40))), width=0.006)
    decisions = bars.select("ts_known", "symbol").with_columns(sigma=pl.Series(rng.uniform(0.005, 0.02, 40)))
    got = triple_barrier(bars, decisions, up=up, down=down, horizon=horizon, vol="sigma", path=path)
    close = bars["close"].to_list()
    high, low = (bars[n].to_list() for n in ("high", "low")) if path == "range" else (close, close)
    want = {}
    for t, sigma in enumerate(decisions["sigma"]):
        found = naive_label(close, high, low, t, sigma, up, down, horizon)
        if found is not None:
            want[bars["ts_known"][t]] = (found[0], bars["ts_known"][found[1]])
    assert {r["ts_known"]: (r["label"], r["ts_end"]) for r in got.to_dicts()} == want


def test_two_symbols_are_labelled_as_if_alone():
    rng = np.random.default_rng(3)
    one, two = (bars_of(100 * np.exp(np.cumsum(rng.normal(0, 0.01, 80))), symbol=s) for s in ("A", "B"))
    both = pl.concat([one, two]).sort("ts_event", "symbol")
    decisions = both.select("ts_known", "symbol").sort("ts_known", "symbol")
    rule = {"up": 1.5, "down": 1.0, "horizon": 6}
    together = triple_barrier(both, decisions, **rule)
    alone = [triple_barrier(b, b.select("ts_known", "symbol"), **rule) for b in (one, two)]
    assert together.equals(pl.concat(alone).sort("ts_known", "symbol"))


def test_decisions_between_bars_fill_in_the_next_bar_to_start():
    bars = bars_of([100, 101, 102, 103, 104, 105])
    noon = (bars["ts_event"][1] + timedelta(hours=12),)
    decision = pl.DataFrame({"ts_known": noon, "symbol": ["S"], "sigma": [0.5]})
    decision = decision.with_columns(pl.col("ts_known").cast(frames.INSTANT))
    got = outcomes(bars, decision, up=1, down=1, horizon=2, vol="sigma")
    assert got["ts_entry"][0] == bars["ts_known"][2]
    assert got["ts_end"][0] == bars["ts_known"][4]


def test_no_decisions_give_no_labels_and_exact_prices_are_refused():
    bars = bars_of(np.linspace(100, 110, 30))
    none = bars.select("ts_known", "symbol").clear()
    assert triple_barrier(bars, none, up=1, down=1, horizon=3).height == 0
    exact = bars.with_columns(pl.col("close").cast(frames.EXACT))
    with pytest.raises(SchemaError, match=r"'close' must be Float64 here, got Decimal.*see frames\.floats"):
        triple_barrier(exact, none, up=1, down=1, horizon=3)


def test_ticks_are_not_sessions():
    ticks = pl.Series("ts_known", [1, 2, 3]).cast(frames.INSTANT)
    with pytest.raises(ValueError, match="these are ticks"):
        walkforward.anchored(ticks, train=1, test=1, purge=0)
