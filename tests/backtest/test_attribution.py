"""Pieces that add up to the cent, whatever the two systems did."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import market, run, targets

from researchkit.backtest import Costs, baselines, fills
from researchkit.backtest.attribution import attribute
from researchkit.backtest.market import Market
from researchkit.backtest.rules import Rules
from researchkit.frames import INSTANT

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


FUTURES = Market(
    contracts=pl.DataFrame({"symbol": ["AAA", "BBB"], "multiplier": [50.0, 20.0], "tick": [0.01, 0.01]})
)
RULES = {
    "none": None,
    "exits": Rules(stop=0.02, take=0.03, bars=7),
    "parts": Rules(participation=0.01, lot=1.0),
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("market_", [None, FUTURES], ids=["cash", "futures"])
def test_stops_parts_and_multipliers_add_up_too(rules, market_):
    bars = market(3, holes=0.0)
    costs = Costs(borrow_rate=0.03, impact=0.5, per_unit=0.01, minimum=1.0)
    one = fills.simulate(bars, targets(bars, 3), costs=costs, rules=RULES[rules], market=market_)
    two = fills.simulate(bars, targets(bars, 9), costs=costs, market=market_)
    found = attribute(one, two, bars)
    assert found.residual == 0
    assert "other" not in found.table("cause")["cause"].to_list()


def test_interest_is_other_and_nothing_else_changes():
    bars = market(3, holes=0.0)
    plain, paid = (
        [fills.simulate(bars, targets(bars, s), costs=Costs(interest_rate=rate)) for s in (3, 9)]
        for rate in (0.0, 0.02)
    )
    without, with_ = attribute(*plain, bars), attribute(*paid, bars)
    assert with_.residual == 0
    assert "other" not in without.table("cause")["cause"].to_list()
    assert with_.table("cause").filter(pl.col("cause") == "other").height == 1
    prices = ["entry", "exit", "size", "price"]
    both = (
        without.table("cause")
        .join(with_.table("cause"), on="cause", suffix="_b")
        .filter(pl.col("cause").is_in(prices))
    )
    assert ((both["money"] - both["money_b"]).abs() <= 0.011).all()


KINDS = {"ts_event": INSTANT, "symbol": pl.String, "kind": pl.String, "ratio": pl.Float64, "amount": pl.Float64, "ts_pay": INSTANT}  # fmt: skip


@st.composite
def worlds(draw):
    """A market of some symbols with splits, dividends and multipliers, and two strategies on it."""
    seed, symbols = draw(st.integers(0, 10_000)), draw(st.sampled_from([1, 2, 7]))
    names = tuple(f"S{i}" for i in range(symbols))
    bars = market(seed, sessions=40, symbols=names, holes=draw(st.sampled_from([0.0, 0.2])))
    rng, days = np.random.default_rng(seed), bars["ts_event"].unique().sort()
    rows = []
    for _ in range(draw(st.integers(0, 8))):
        kind = str(rng.choice(["split", "dividend", "special"]))
        split = float(rng.choice([0.25, 2.0, 3.0])) if kind == "split" else None
        rows.append(
            (
                days[int(rng.integers(len(days)))],
                str(rng.choice(names)),
                kind,
                split,
                None if split else float(rng.uniform(0, 3)),
                None,
            )
        )
    actions = pl.DataFrame(rows, schema=KINDS, orient="row").unique(
        ["ts_event", "symbol", "kind"], maintain_order=True
    )
    future = pl.DataFrame({"symbol": [names[-1]], "multiplier": [50.0], "tick": [0.01]})
    terms = Market(
        actions=actions.sort("ts_event", maintain_order=True), contracts=draw(st.sampled_from([None, future]))
    )
    costs = Costs(
        bps=draw(st.sampled_from([0.0, 3.0])),
        borrow_rate=0.05,
        interest_rate=draw(st.sampled_from([0.0, 0.02])),
    )
    one, two = (
        fills.simulate(bars, targets(bars, seed + k), costs=costs, market=terms, fill=draw(FILL))
        for k in (0, 7)
    )
    return bars, one, two


@settings(max_examples=30, deadline=None)
@given(world=worlds(), shuffle=st.integers(0, 99))
def test_whatever_happens_it_adds_up_and_row_order_means_nothing(world, shuffle):
    bars, one, two = world
    found = attribute(one, two, bars)
    whole = math.fsum((one.equity["net"] - two.equity["net"]).to_list()) * one.capital
    assert found.cents == int(found.rows["cents"].sum()) == round(100 * whole)
    for keys in KEYS:
        assert round(100 * found.table(*keys)["money"].sum()) == found.cents
    mixed = [
        replace(
            r,
            **{
                n: getattr(r, n).sample(fraction=1.0, shuffle=True, seed=shuffle)
                for n in ("fills", "positions", "equity")
            },
        )
        for r in (one, two)
    ]
    again = attribute(*mixed, bars)
    assert again.rows.equals(found.rows)
    if one.costs.interest_rate == 0.0:  # then all income is dividends, and those belong to their symbols
        other = found.rows.filter((pl.col("cause") == "other") & pl.col("symbol").is_null())
        assert other["cents"].abs().sum() <= 1
        by_charges = sum(s * r.charges["dividend"].sum() for r, s in ((one, 1), (two, -1)))
        told = found.rows.filter(pl.col("cause") == "other")["cents"].sum()
        assert told == pytest.approx(100 * by_charges, abs=2)


def test_a_lost_piece_shows():
    bars, one, two = pair(3, "next_close")
    found = attribute(one, two, bars)
    assert (found.residual, replace(found, rows=found.rows[1:]).residual) == (0, found.rows["cents"][0])
