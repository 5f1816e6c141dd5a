"""The books against an independent account, on random markets."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit import frames
from researchkit.backtest import Costs, auditor, baselines, entries, fills, metrics
from researchkit.errors import IntegrityError, NotFound, SchemaError


def market(seed, sessions=60, symbols=("AAA", "BBB", "CCC"), holes=0.15):
    """Random bars: gaps in time, symbols that miss sessions, opens apart from closes."""
    rng = np.random.default_rng(seed)
    start, rows = datetime(2001, 1, 1, tzinfo=UTC), []
    days = [start + timedelta(days=int(d)) for d in np.cumsum(rng.integers(1, 4, sessions))]
    for symbol in symbols:
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, sessions)))
        open_ = close * np.exp(rng.normal(0, 0.01, sessions))
        for i, day in enumerate(days):
            if i and rng.random() < holes:
                continue
            end = day + timedelta(days=1)
            high, low = max(close[i], open_[i]), min(close[i], open_[i])
            rows.append((day, symbol, end, end, open_[i], high, low, close[i], 1))
    return frames.conform(pl.DataFrame(rows, schema=list(frames.BARS.columns), orient="row"), frames.BARS)


def random_targets(bars, seed, share=0.4):
    """Random targets, long and short, at some of the bars' own instants."""
    rng = np.random.default_rng(seed + 1000)
    rows = bars.select("ts_known", "symbol").filter(pl.Series(rng.random(bars.height) < share))
    values = rng.choice([-1.0, -0.5, 0.0, 0.0, 0.3, 1.0], rows.height)
    return frames.conform(rows.with_columns(target=pl.Series(values)), frames.SIGNALS)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), fill=st.sampled_from(["next_close", "next_open"]))
def test_an_auditor_who_shares_no_code_agrees(seed, fill):
    bars = market(seed)
    result = fills.simulate(bars, random_targets(bars, seed), costs=Costs(borrow_rate=0.05), fill=fill)
    assert auditor.audit(result, bars).largest_gap < 1e-12
    assert result.equity.height == bars["ts_known"].n_unique()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 5.0))
def test_profit_is_linear_in_the_targets(seed, factor):
    bars = market(seed)
    targets = random_targets(bars, seed)
    one = fills.simulate(bars, targets, costs=Costs(borrow_rate=0.05)).equity
    many = fills.simulate(bars, baselines.leveraged(targets, factor), costs=Costs(borrow_rate=0.05)).equity
    for column in ("gross", "net", "turnover"):
        np.testing.assert_allclose(many[column], factor * one[column], rtol=1e-12, atol=1e-15 * factor)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(5, 55))
def test_the_future_changes_nothing_before_it(seed, cut):
    bars = market(seed)
    targets = random_targets(bars, seed)
    at = bars["ts_known"].unique().sort()[cut]
    whole = fills.simulate(bars, targets, costs=Costs())
    upto = pl.col("ts_known") <= at
    short = fills.simulate(bars.filter(upto), targets.filter(upto), costs=Costs())
    assert short.equity.equals(whole.equity.filter(upto))
    assert short.fills.equals(whole.fills.filter(pl.col("ts_event") < at))


def test_no_fill_precedes_its_decision():
    bars = market(3)
    result = fills.simulate(bars, random_targets(bars, 3), costs=Costs(), fill="next_open")
    joined = result.fills.join(result.orders.select("order", "ts_known"), on="order")
    assert joined.height == result.fills.height > 0
    assert (joined["ts_event"] >= joined["ts_known"]).all()


def test_row_order_of_the_source_does_not_matter():
    bars = market(8)
    targets = random_targets(bars, 8)
    shuffled = frames.conform(bars.sample(fraction=1.0, shuffle=True, seed=1), frames.BARS)
    first, second = (fills.simulate(b, targets, costs=Costs()) for b in (bars, shuffled))
    assert frames.logical_hash(first.equity, frames.EQUITY) == frames.logical_hash(
        second.equity, frames.EQUITY
    )
    assert frames.logical_hash(first.fills, frames.FILLS) == frames.logical_hash(second.fills, frames.FILLS)


def test_inputs_are_not_changed():
    bars = market(5)
    targets = random_targets(bars, 5)
    before = bars.clone(), targets.clone()
    fills.simulate(bars, targets, costs=Costs())
    baselines.trend_signals(bars, slow=20)
    assert bars.equals(before[0])
    assert targets.equals(before[1])


def test_a_symbol_that_stops_trading_keeps_its_last_mark():
    bars = market(2, holes=0.0)
    last = bars["ts_event"].unique().sort()[30]
    stopped = bars.filter(~((pl.col("symbol") == "BBB") & (pl.col("ts_event") > last)))
    first = bars["ts_known"].unique().sort()[0]
    target = frames.conform(
        pl.DataFrame({"ts_known": [first], "symbol": ["BBB"], "target": [1.0]}), frames.SIGNALS
    )
    result = fills.simulate(stopped, target, costs=Costs())
    after = result.equity.filter(pl.col("ts_known") > last + timedelta(days=1))
    assert after.height == 29
    assert (after["net"] == 0).all()
    assert after["position_value"].n_unique() == 1
    assert auditor.audit(result, stopped).largest_gap < 1e-12


def test_a_close_published_late_is_not_sized_on():
    bars = market(4, symbols=("AAA",), holes=0.0)
    late = bars.with_columns(
        ts_published=pl.when(pl.int_range(pl.len()) == 5)
        .then(pl.col("ts_known").dt.offset_by("30d"))
        .otherwise("ts_known")
    )
    at = bars["ts_known"][5]
    target = frames.conform(
        pl.DataFrame({"ts_known": [at], "symbol": ["AAA"], "target": [1.0]}), frames.SIGNALS
    )
    order = fills.simulate(late, target, costs=Costs()).orders
    assert order["quantity"][0] == pytest.approx(1e6 / bars["close"][4])


def test_no_signals_no_trades():
    bars = market(6)
    empty = random_targets(bars, 6)[:0]
    result = fills.simulate(bars, empty, costs=Costs())
    assert result.fills.height == result.positions.height == result.orders.height == 0
    assert (result.equity["equity"] == 1e6).all()
    assert metrics.summary(result.equity).sharpe is None
    assert auditor.audit(result, bars).fills == 0
    assert "undefined" in repr(result)


def test_errors_are_those_of_the_house():
    bars = market(7)
    targets = random_targets(bars, 7)
    with pytest.raises(SchemaError, match="column 'target' is missing"):
        fills.simulate(bars, targets.drop("target"), costs=Costs())
    with pytest.raises(NotFound, match="no symbol 'AAX'"):
        fills.simulate(
            bars,
            targets.with_columns(symbol=pl.lit("AAX")).unique("ts_known").sort("ts_known"),
            costs=Costs(),
        )
    result = fills.simulate(bars, targets, costs=Costs())
    with pytest.raises(IntegrityError, match="has no bar behind it"):
        auditor.audit(result, bars[: bars.height // 2])
    quiet = fills.simulate(bars, targets[:0], costs=Costs())
    with pytest.raises(IntegrityError, match="equity has 60 sessions, the bars have"):
        auditor.audit(quiet, bars[: bars.height // 2])


def test_exact_prices_are_sent_to_the_door():
    bars = market(7).with_columns(pl.col("close").cast(frames.EXACT))
    with pytest.raises(SchemaError, match=r"use frames\.floats"):
        baselines.reversal_signals(bars)


def test_new_symbols_do_not_change_old_sizes():
    bars = market(9, sessions=150, holes=0.0)
    listed = bars["ts_known"].unique().sort()[100]
    later = bars.filter(~((pl.col("symbol") == "CCC") & (pl.col("ts_known") < listed)))
    old = pl.col("ts_known") < listed
    without = baselines.sized(bars.filter(pl.col("symbol") != "CCC"))
    assert baselines.sized(later).filter(old).equals(without.filter(old))


def test_entries_accept_several_folds_and_ignore_exit_rows():
    when = [datetime(2010, 1, 1, tzinfo=UTC) + timedelta(days=i) for i in range(4)]
    rows = pl.DataFrame(
        {"ts_known": when * 2, "symbol": "SPX", "kind": ["entry"] * 4 + ["exit"] * 4, "p_raw": 0.9,
         "p": [0.9, 0.9, 0.1, 0.9] + [0.9] * 4, "fold": [1, 1, 2, 2] * 2}
    )  # fmt: skip
    p = frames.conform(rows, frames.PROBABILITIES)
    assert entries.signals(p)["target"].to_list() == [1.0, 1.0, 0.0, 1.0]
