"""Worked examples of single rules, by hand or from the sources that the pages cite."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from researchkit import frames
from researchkit.backtest import Costs, auditor
from researchkit.backtest.fills import simulate
from researchkit.backtest.market import Market
from researchkit.backtest.rules import Rules

DAY = timedelta(days=1)
START = datetime(2013, 6, 3, tzinfo=UTC)
FREE = Costs(bps=0, half_spread_bps=0)


def bars_of(*rows, symbol="ABC", step=DAY, start=START, volume=1_000_000):
    """Bars from rows of open, high, low, close."""
    made = [
        (start + i * step, symbol, start + (i + 1) * step, start + (i + 1) * step, *map(float, r), volume)
        for i, r in enumerate(rows)
    ]
    return frames.conform(pl.DataFrame(made, schema=list(frames.BARS.columns), orient="row"), frames.BARS)


def hold(bars, *targets):
    """One target a bar, None where nothing is said."""
    rows = bars.select("ts_known", "symbol")[: len(targets)]
    rows = rows.with_columns(target=pl.Series(targets, dtype=pl.Float64))
    return frames.conform(rows.drop_nulls(), frames.SIGNALS)


FLAT = (100, 100, 100, 100)
WILD = (100, 106, 94, 100)


def told(result):
    """What was traded: reason and price of each fill."""
    return list(zip(result.fills["reason"], result.fills["price"], strict=True))


def test_a_bar_that_touches_both_is_a_stop_and_is_counted():
    bars = bars_of(FLAT, FLAT, WILD, FLAT)
    result = simulate(bars, hold(bars, 0.5), costs=FREE, rules=Rules(stop=0.05, take=0.05))
    assert told(result) == [("enter", 100.0), ("stop", 95.0)]
    assert (result.exits.touched, result.exits.both, result.exits.share) == (1, 1, 1.0)
    assert "100.0% are stops by rule" in repr(result)
    auditor.audit(result, bars)


@pytest.mark.parametrize(
    ("halves", "expected"),
    [
        (((100, 106, 99, 99), (99, 99, 94, 100)), ("target", 105.0)),
        (((100, 101, 94, 99), (99, 106, 99, 100)), ("stop", 95.0)),
    ],
)
def test_finer_bars_say_what_came_first(halves, expected):
    bars = bars_of(FLAT, FLAT, WILD, FLAT)
    finer = bars_of(*halves, step=timedelta(hours=12), start=START + 2 * DAY)
    result = simulate(
        bars, hold(bars, 0.5), costs=FREE, rules=Rules(stop=0.05, take=0.05), market=Market(finer=finer)
    )
    assert told(result)[1] == expected
    assert (result.exits.both, result.exits.resolved, result.exits.share) == (1, 1, 0.0)
    auditor.audit(result, bars)


def test_a_gap_through_the_stop_fills_at_the_open_and_a_touch_is_no_target():
    bars = bars_of(FLAT, FLAT, (93, 94, 92, 93), FLAT)
    assert told(simulate(bars, hold(bars, 0.5), costs=FREE, rules=Rules(stop=0.05)))[1] == ("stop", 93.0)
    bars = bars_of(FLAT, FLAT, (100, 105, 100, 104), (104, 105.5, 104, 105))
    result = simulate(bars, hold(bars, 0.5), costs=FREE, rules=Rules(take=0.05))
    assert told(result)[1] == ("target", 105.0)
    assert result.fills["ts_event"][1] == START + 3 * DAY


def test_a_short_position_has_its_exits_the_other_way_round():
    bars = bars_of(FLAT, FLAT, (100, 106, 100, 104), FLAT)
    result = simulate(bars, hold(bars, -0.5), costs=FREE, rules=Rules(stop=0.05, take=0.05))
    assert told(result) == [("enter", 100.0), ("stop", 105.0)]
    assert result.equity["equity"][-1] == pytest.approx(1e6 - 25_000)


def test_after_a_stop_the_symbol_stays_flat_until_the_target_was_zero():
    bars = bars_of(FLAT, FLAT, (100, 100, 94, 95), FLAT, FLAT, FLAT, FLAT)
    wishes = hold(bars, 0.5, 0.5, 0.5, 0.6, 0.0, 0.6)
    result = simulate(bars, wishes, costs=FREE, rules=Rules(stop=0.05))
    assert told(result) == [("enter", 100.0), ("stop", 95.0), ("enter", 100.0)]
    assert result.fills["ts_event"][2] == START + 6 * DAY


def test_brackets_belong_to_single_decisions():
    bars = bars_of(FLAT, FLAT, (100, 103.5, 100, 103), FLAT)
    signals = hold(bars, 0.5)
    given = signals.select("ts_known", "symbol").with_columns(
        stop=pl.lit(None, pl.Float64), take=pl.lit(0.03), bars=pl.lit(None, pl.Int64)
    )
    result = simulate(bars, signals, costs=FREE, rules=Rules(brackets=given))
    assert told(result)[1] == ("target", 103.0)
    auditor.audit(result, bars)


def test_what_the_volume_does_not_allow_is_carried_or_cancelled():
    bars = bars_of(*[FLAT] * 6, volume=20_000)
    carried, cancelled = (
        simulate(bars, hold(bars, 0.5), costs=FREE, rules=Rules(participation=0.1, remainder=r))
        for r in ("carry", "cancel")
    )
    assert carried.fills["quantity"].to_list() == [2000.0, 2000.0, 1000.0]
    assert cancelled.fills["quantity"].to_list() == [2000.0]
    assert carried.fills["order"].n_unique() == 1
    auditor.audit(carried, bars)


def test_a_minimum_is_paid_once_an_order_and_per_share_otherwise():
    """Interactive Brokers, fixed: USD 0.005 a share, USD 1.00 an order."""
    bars = bars_of(*[(25, 25, 25, 25)] * 4)
    ib = Costs(bps=0, half_spread_bps=0, per_unit=0.005, minimum=1.0)
    for shares, paid in ((100, 1.0), (1000, 5.0)):
        result = simulate(bars, hold(bars, shares * 25 / 1e6), costs=ib)
        assert result.fills["commission"].to_list() == pytest.approx([paid])
    slow = bars_of(*[(25, 25, 25, 25)] * 6, volume=1000)
    parts = simulate(slow, hold(slow, 0.01), costs=ib, rules=Rules(participation=0.1))
    assert parts.fills["commission"].to_list() == pytest.approx([1.0, 0.0, 0.5, 0.5])
    auditor.audit(parts, slow)


def test_slippage_by_volume_share_is_zipline_s():
    """Five shares in a bar of two hundred at 3.00 fill at 3.0001875 (zipline's own test of VolumeShareSlippage)."""
    bars = bars_of(*[(3, 3, 3, 3)] * 4, volume=200)
    result = simulate(bars, hold(bars, 15 / 1e6), costs=Costs(bps=0, half_spread_bps=0, volume_share=0.1))
    assert result.fills["slippage"][0] / 5 == pytest.approx(0.0001875)


def test_quotes_are_bought_at_the_offer_and_sold_at_the_bid():
    bars = bars_of(*[FLAT] * 4)
    when = [START + DAY + timedelta(minutes=m) for m in (-1, 5)] + [START + 2 * DAY]
    quotes = pl.DataFrame(
        {
            "ts_event": when,
            "symbol": ["ABC"] * 3,
            "bid_px": [98.0, 99.0, 97.0],
            "ask_px": [99.0, 101.0, 98.0],
        },
        schema={"ts_event": frames.INSTANT, "symbol": pl.String, "bid_px": pl.Float64, "ask_px": pl.Float64},
    )
    result = simulate(bars, hold(bars, 0.5, 0.0), costs=Costs(), fill="quotes", market=Market(quotes=quotes))
    assert told(result) == [("enter", 101.0), ("exit", 97.0)]
    assert result.fills["ts_event"].to_list() == when[1:]
    assert result.fills["spread"].to_list() == [0.0, 0.0]
    auditor.audit(result, bars)


def test_a_delisting_loses_thirty_per_cent_where_nobody_knows():
    """Shumway (1997): the average delisting return for performance on the New York exchange."""
    bars = pl.concat([bars_of(*[FLAT] * 5, symbol="ZZZ"), bars_of(*[FLAT] * 3)]).sort("ts_event", "symbol")
    gone = pl.DataFrame(
        [(START + 3 * DAY, "ABC", "delisting", None, None, None)],
        schema={"ts_event": frames.INSTANT, "symbol": pl.String, "kind": pl.String, "ratio": pl.Float64,
                "amount": pl.Float64, "ts_pay": frames.INSTANT},
        orient="row",
    )  # fmt: skip
    signals = frames.conform(hold(bars.filter(pl.col("symbol") == "ABC"), 0.5), frames.SIGNALS)
    result = simulate(bars, signals, costs=FREE, market=Market(actions=gone))
    assert told(result) == [("enter", 100.0), ("delist", 70.0)]
    assert result.equity["equity"][-1] == pytest.approx(1e6 - 150_000)
    auditor.audit(result, bars)


def test_thirty_symbols_that_trade_on_different_days_need_no_common_calendar():
    parts = [bars_of(*[FLAT] * (3 + i), symbol=f"S{i:02d}", start=START + i * DAY) for i in range(30)]
    bars = pl.concat(parts).sort("ts_event", "symbol")
    first = (
        bars.group_by("symbol", maintain_order=True).first().select("ts_known", "symbol", target=pl.lit(0.01))
    )
    result = simulate(bars, frames.conform(first, frames.SIGNALS), costs=Costs())
    assert result.fills.height == 30
    assert result.positions.group_by("ts_known").len()["len"].max() == 30
    auditor.audit(result, bars)
