"""Pieces that add up to the cent, whatever the two systems did."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import market, run, targets

from researchkit.backtest import baselines
from researchkit.backtest.attribution import attribute

KEYS = (
    ["cause"],
    ["symbol"],
    ["year"],
    ["month"],
    ["state"],
    ["session"],
    ["cause", "symbol"],
    ["month", "cause"],
)
FILL = st.sampled_from(["next_close", "next_open"])


def pair(seed, fill, other="next_close"):
    """Two unrelated strategies on one market."""
    bars = market(seed)
    one = run(bars, targets(bars, seed), "one", borrow_rate=0.05, fill=fill)
    return bars, one, run(bars, targets(bars, seed + 7), "two", bps=3.0, borrow_rate=0.05, fill=other)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), fill=FILL, other=FILL)
def test_every_table_adds_up_to_the_same_cent(seed, fill, other):
    bars, one, two = pair(seed, fill, other)
    found = attribute(one, two, bars)
    assert found.residual == 0
    whole = (one.equity["net"].sum() - two.equity["net"].sum()) * one.capital
    assert abs(found.cents - 100 * whole) <= 0.5 + 1e-3
    for keys in KEYS:
        assert round(100 * found.table(*keys)["money"].sum()) == found.cents
    assert "other" not in found.table("cause")["cause"].to_list()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), fill=FILL)
def test_turned_round_it_changes_its_sign(seed, fill):
    bars, one, two = pair(seed, fill, fill)
    there, back = attribute(one, two, bars), attribute(two, one, bars)
    both = there.table("cause").join(back.table("cause"), on="cause", suffix="_back")
    assert ((both["money"] + both["money_back"]).abs() <= 0.021).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(10, 55))
def test_what_is_over_keeps_its_causes(seed, cut):
    bars, one, two = pair(seed, "next_close")
    at = one.equity["ts_known"][cut]
    early = pl.col("ts_known") <= at
    short = bars.filter(early)
    first = run(short, targets(bars, seed).filter(early), "one", borrow_rate=0.05)
    second = run(short, targets(bars, seed + 7).filter(early), "two", bps=3.0, borrow_rate=0.05)
    now = attribute(first, second, short).rows
    later = attribute(one, two, bars).rows.filter(early)
    on = ["ts_known", "symbol", "cause"]
    both = now.join(later, on=on, how="full", coalesce=True, nulls_equal=True).fill_null(0)
    assert ((both["cents"] - both["cents_right"]).abs() <= 1).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(1.1, 4))
def test_a_larger_size_is_size_and_cost(seed, factor):
    bars = market(seed)
    signals = targets(bars, seed)
    base = run(bars, signals, borrow_rate=0.05)
    more = run(bars, baselines.leveraged(signals, factor), borrow_rate=0.05)
    table = dict(attribute(more, base, bars).table("cause").iter_rows())
    assert set(table) <= {"size", "cost"}
    assert table.get("size", 0.0) == pytest.approx((factor - 1) * base.equity["gross"].sum() * 1e6, abs=0.02)


def test_nothing_against_something_is_entry_and_cost():
    bars = market(5)
    signals = targets(bars, 5)
    idle, busy = run(bars, signals[:0]), run(bars, signals)
    assert set(attribute(busy, idle, bars).table("cause")["cause"]) <= {"entry", "cost"}


def test_states_are_known_before_the_session():
    bars, one, two = pair(11, "next_close")
    when = one.equity["ts_known"]
    states = pl.DataFrame({"ts_known": when, "state": [f"s{i}" for i in range(len(when))]})
    rows = attribute(one, two, bars, states=states).rows
    at = dict(zip(when.to_list(), range(len(when)), strict=True))
    for row in rows.head(50).iter_rows(named=True):
        place = at[row["ts_known"]]
        assert row["state"] == ("unknown" if place == 0 else f"s{place - 1}")
