"""Costs never help, a delay never hastens, and a scenario is linear in what is held."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import market, run, targets

from researchkit import frames
from researchkit.backtest import Costs, baselines, scenarios, stress
from researchkit.backtest.attribution import attribute
from researchkit.backtest.auditor import audit
from researchkit.backtest.capacity import participation
from researchkit.backtest.fills import simulate
from researchkit.backtest.market import Market
from researchkit.errors import ResearchKitError


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), multiple=st.sampled_from([0.0, 0.5, 2.0, 3.0]))
def test_the_line_is_what_a_run_at_those_costs_gives(seed, multiple):
    bars = market(seed)
    signals = targets(bars, seed)
    table = stress.costs(run(bars, signals, borrow_rate=0.03), [multiple])
    again = run(bars, signals, bps=multiple, half_spread_bps=0.5 * multiple, borrow_rate=0.03 * multiple)
    assert table["annual"][0] == pytest.approx(again.equity["net"].mean() * 252, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_costs_never_help(seed):
    bars = market(seed)
    table = stress.costs(run(bars, targets(bars, seed)))
    assert table["annual"].is_sorted(descending=True)
    assert table["break_even"].n_unique() == 1


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), by=st.integers(0, 10))
def test_a_delay_only_delays(seed, by):
    bars = market(seed)
    signals = targets(bars, seed)
    late = stress.delayed(signals, bars, by)
    assert late.height <= signals.height
    for symbol, rows in late.group_by("symbol"):
        ends = bars.filter(pl.col("symbol") == symbol[0])["ts_known"].to_list()
        for when, _, target in rows.iter_rows():
            origin = ends[ends.index(when) - by]
            asked = signals.filter((pl.col("symbol") == symbol[0]) & (pl.col("ts_known") == origin))
            assert asked["target"].to_list() == [target]


def test_the_delay_curve_starts_at_the_run_itself():
    bars = market(3)
    signals = targets(bars, 3)
    table = stress.delays(bars, signals, costs=Costs(), by=(0, 1))
    assert table["annual"][0] == run(bars, signals).equity["net"].to_numpy().mean() * 252


def test_sizes_hand_the_capital_on():
    bars = market(4)
    seen = []

    def at(capital):
        seen.append(capital)
        return run(bars, targets(bars, 4))

    assert stress.sizes(at, [1e6, 2e6]).height == 2
    assert seen == [1e6, 2e6]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), move=st.floats(-0.5, 0.5), factor=st.floats(0.1, 3))
def test_a_scenario_is_linear(seed, move, factor):
    bars = market(seed)
    signals = targets(bars, seed)
    one, many = run(bars, signals), run(bars, baselines.leveraged(signals, factor))
    down, up = scenarios.Scenario("d", -move), scenarios.Scenario("u", move)
    loss = scenarios.losses(one, down)["loss"]
    assert (loss + scenarios.losses(one, up)["loss"]).abs().max() < 1e-12
    assert (scenarios.losses(many, down)["loss"] - factor * loss).abs().max() < 1e-9


def test_the_worst_session_is_in_the_sample():
    bars = market(6, holes=0.0)
    found = scenarios.worst_sessions(bars, 3)
    assert [s.market for s in found] == sorted(s.market for s in found)
    assert len({s.name for s in found}) == 3
    assert all(set(s.symbols) == {"AAA", "BBB", "CCC"} for s in found)
    assert scenarios.table(run(bars, targets(bars, 6)), found)["worst_at"].null_count() == 0


def test_a_veto_needs_both_limits():
    bars = market(8)
    signals = targets(bars, 8)
    base, large = run(bars, signals), run(bars, baselines.leveraged(signals, 3.0))
    assert scenarios.vetoed(base, base, limit=0.0).height == 0
    assert scenarios.vetoed(large, base, limit=0.0).height > 0
    assert scenarios.vetoed(large, base, limit=100.0).height == 0


@pytest.mark.parametrize("bad", [[-1.0], [float("nan")], [float("inf")]])
def test_what_is_no_multiple_is_refused(bad):
    bars = market(1)
    with pytest.raises((ValueError, ResearchKitError), match="multiples must be"):
        stress.costs(run(bars, targets(bars, 1)), bad)


def test_reports_of_a_future_whose_price_crossed_zero() -> None:
    """Oil in April 2020: attribution, capacity, delay and the worst sessions see what the books saw."""
    days = [datetime(2020, 4, 16, tzinfo=UTC) + timedelta(days=i) for i in range(6)]
    known = [d + timedelta(days=1) for d in days]
    close = [20.0, 18.0, -37.0, 10.0, 12.0, 13.0]
    bars = frames.conform(
        pl.DataFrame(
            {
                "ts_event": days, "symbol": "CL", "ts_known": known, "ts_published": known, "open": close,
                "high": [c + 1 for c in close], "low": [c - 1 for c in close], "close": close, "volume": 1000,
            }
        ),
        frames.BARS,
    )  # fmt: skip
    oil = Market(contracts=pl.DataFrame({"symbol": ["CL"], "multiplier": [1000.0], "tick": [0.01]}))
    large, small = (
        frames.conform(pl.DataFrame({"ts_known": known[:1], "symbol": "CL", "target": [t]}), frames.SIGNALS)
        for t in (0.5, 0.2)
    )
    one, two = (simulate(bars, s, costs=Costs(), market=oil) for s in (large, small))
    audit(one, bars)
    moved = attribute(one, two, bars)
    assert moved.rows["cents"].sum() == pytest.approx(
        100 * (one.equity["equity"][-1] - two.equity["equity"][-1]), abs=1
    )
    shares = participation(one, bars)
    assert shares["share"].to_list() == [25.0 / 1000]
    late = stress.delays(bars, large, costs=Costs(), by=(0, 1), market=oil)
    assert late["fills"].to_list() == [1, 1]
    worst = scenarios.worst_sessions(bars, 1, signed=frozenset({"CL"}))[0]
    assert worst.symbols["CL"] == pytest.approx(-55.0 / 18.0)
    with pytest.raises(ValueError, match="every price must be positive, broken for CL"):
        scenarios.worst_sessions(bars, 1)
