"""What the kernel promises, clause by clause, with answers worked by hand; every run is audited with its signals."""

from datetime import timedelta

import polars as pl
import pytest
from test_worked import DAY, FLAT, FREE, START, bars_of, hold, told

from researchkit import frames
from researchkit.backtest import Costs, auditor
from researchkit.backtest.fills import simulate
from researchkit.backtest.market import Market
from researchkit.backtest.rules import Rules
from researchkit.backtest.trades import round_trips, splits_of
from researchkit.errors import SchemaError

ACTIONS = {
    "ts_event": frames.INSTANT, "symbol": pl.String, "kind": pl.String, "ratio": pl.Float64, "amount": pl.Float64,
    "ts_pay": frames.INSTANT,
}  # fmt: skip
QUOTES = {"ts_event": frames.INSTANT, "symbol": pl.String, "bid_px": pl.Float64, "ask_px": pl.Float64}
DIP = (100, 100, 94, 96)


def acts(*rows, symbol="ABC"):
    """Actions from (day, kind, ratio, amount) or with the day of payment."""
    made = [
        (START + r[0] * DAY, symbol, r[1], r[2], r[3], START + r[4] * DAY if len(r) > 4 else None)
        for r in rows
    ]
    return pl.DataFrame(made, schema=ACTIONS, orient="row")


def run(bars, targets, costs=FREE, **how):
    """Simulate and audit."""
    asked = targets if isinstance(targets, pl.DataFrame) else hold(bars, *targets)
    result = simulate(bars, asked, costs=costs, **how)
    auditor.audit(result, bars, signals=asked)
    return result


def sessions(*rows, volume=1_000_000):
    """Bars from 14:00 to 20:00, with a night between them."""
    shift = {
        "ts_event": timedelta(hours=14),
        "ts_known": timedelta(hours=20),
        "ts_published": timedelta(hours=20),
    }
    days = bars_of(*rows, volume=volume)
    return days.with_columns(
        (pl.col("ts_event") + by).cast(frames.INSTANT).alias(c) for c, by in shift.items()
    )


def ticks(*rows):
    """Quotes from (day, hour, bid, ask)."""
    made = [(START + d * DAY + timedelta(hours=h), "ABC", bid, ask) for d, h, bid, ask in rows]
    return pl.DataFrame(made, schema=QUOTES, orient="row")


# --- exits, and what may be bought again ---


@pytest.mark.parametrize(("second", "then"), [(0.0, "enter"), (-0.5, "reverse")])
def test_a_stop_in_the_bar_of_its_own_exit_order_does_not_close_the_door(second, then):
    """The target was zero (or turned) before the stop was hit: the next entry has nothing to wait for."""
    bars = bars_of(FLAT, FLAT, DIP, FLAT, FLAT, FLAT)
    result = run(bars, (0.5, second, None, 0.5), rules=Rules(stop=0.05))
    assert told(result)[:2] == [("enter", 100.0), ("stop", 95.0)]
    assert told(result)[-1] == (then, 100.0)


def test_a_time_exit_still_works_after_a_stop_that_was_turned_into_the_other_side():
    bars = bars_of(FLAT, FLAT, DIP, (96, 96, 96, 96), (96, 96, 96, 96), (96, 96, 96, 96))
    result = run(bars, (0.5, -0.5), rules=Rules(stop=0.05, bars=2))
    assert told(result) == [("enter", 100.0), ("stop", 95.0), ("enter", 96.0), ("time", 96.0)]


def test_a_cancelled_rest_of_an_exit_does_not_close_the_door():
    volume = pl.Series([10**6, 10**6, 2500, 10**6, 10**6, 10**6], dtype=pl.UInt64)
    bars = bars_of(FLAT, FLAT, FLAT, DIP, FLAT, FLAT).with_columns(volume=volume)
    result = run(bars, (0.5, 0.0, None, 0.5), rules=Rules(stop=0.05, participation=0.5, remainder="cancel"))
    assert told(result) == [("enter", 100.0), ("reduce", 100.0), ("stop", 95.0), ("enter", 100.0)]


def test_stop_and_target_on_the_bar_of_the_entry():
    """At the open the whole bar lies ahead, at the close it lies behind."""
    bars = bars_of(FLAT, (100, 106, 99, 101), FLAT)
    early = run(bars, (0.5,), fill="next_open", rules=Rules(take=0.05))
    assert sorted(told(early)) == [("enter", 100.0), ("target", 105.0)]
    trip = round_trips(early.fills).row(0, named=True)
    assert (trip["side"], trip["entry"], trip["exit"], trip["gross"]) == ("long", 100.0, 105.0, 25_000.0)
    assert told(run(bars, (0.5,), rules=Rules(take=0.05))) == [("enter", 101.0)]


def test_a_gap_through_a_target_is_sold_at_the_open():
    bars = bars_of(FLAT, FLAT, (108, 109, 107, 108), FLAT)
    assert told(run(bars, (0.5,), rules=Rules(take=0.05)))[1] == ("target", 108.0)


def test_a_gap_between_two_finer_bars_is_a_gap():
    bars = bars_of(FLAT, FLAT, (100, 101, 90, 92), FLAT)
    finer = bars_of((100, 101, 99, 99), (92, 93, 90, 92), step=timedelta(hours=12), start=START + 2 * DAY)
    result = run(bars, (0.5,), rules=Rules(stop=0.05), market=Market(finer=finer))
    assert told(result)[1] == ("stop", 92.0)


def test_a_stop_goes_through_a_split():
    """Bought at 100, split two for one; the stop of 95 is 47.50 and the target's 110 is 55."""
    after = (50, 51, 47, 49)
    bars = bars_of(FLAT, FLAT, after, (49, 49, 49, 49))
    result = run(
        bars, (0.5,), rules=Rules(stop=0.05, take=0.10), market=Market(actions=acts((2, "split", 2.0, None)))
    )
    assert told(result) == [("enter", 100.0), ("stop", 47.5)]
    assert result.fills["quantity"].to_list() == [5000.0, -10_000.0]
    trip = round_trips(result.fills, splits=splits_of(result)).row(0, named=True)
    assert (trip["side"], trip["entry"], trip["exit"], trip["gross"]) == ("long", 50.0, 47.5, -25_000.0)
    assert result.equity["equity"][-1] == pytest.approx(1e6 - 25_000)


# --- against quotes: before, between and inside bars ---


def test_what_was_sold_in_the_evening_is_not_stopped_by_the_gap_of_the_morning():
    bars = sessions(FLAT, FLAT, (90, 92, 90, 91), FLAT)
    market = Market(quotes=ticks((1, 15, 99.0, 100.0), (1, 21, 98.0, 99.0)))
    result = run(bars, (0.5, 0.0), fill="quotes", rules=Rules(stop=0.05), market=market)
    assert told(result) == [("enter", 100.0), ("exit", 98.0)]


def test_a_change_of_size_does_not_switch_the_stop_off():
    bars = sessions(FLAT, FLAT, (100, 100, 90, 100), FLAT)
    market = Market(quotes=ticks((1, 15, 99.0, 100.0), (2, 15, 99.0, 100.0)))
    result = run(bars, (0.5, 0.51), fill="quotes", rules=Rules(stop=0.05), market=market)
    assert sorted(told(result)) == [("add", 100.0), ("enter", 100.0), ("stop", 95.0)]
    assert result.fills["ts_event"][2] == result.fills["ts_event"][1]
    assert round_trips(result.fills)["side"].to_list() == ["long"]


def test_finer_bars_after_the_quote_can_stop_what_was_bought_in_the_same_bar():
    bars = sessions(FLAT, (100, 101, 90, 98), FLAT)
    day = START + DAY + timedelta(hours=14)
    before, after = (100, 101, 90, 98), (98, 99, 94, 98)
    market = Market(quotes=ticks((1, 16, 99.0, 100.0)))
    for halves, expected in (((before, FLAT), []), ((FLAT, after), [("stop", 95.0)])):
        finer = bars_of(*halves, step=timedelta(hours=3), start=day)
        made = Market(quotes=market.quotes, finer=finer)
        result = run(bars, (0.5,), fill="quotes", rules=Rules(stop=0.05), market=made)
        assert told(result) == [("enter", 100.0), *expected]


def test_a_quote_of_the_evening_is_in_shares_of_before_the_split():
    """5,000 shares bought at 100 in the evening are 10,000 at 50 in the morning, and earn the dividend of the night."""
    bars = sessions(FLAT, FLAT, (50, 50, 50, 50), (50, 50, 50, 50))
    market = Market(
        quotes=ticks((1, 21, 99.0, 100.0)), actions=acts((2, "split", 2.0, None), (2, "dividend", None, 1.0))
    )
    result = run(bars, (None, 0.5), fill="quotes", market=market)
    assert result.fills["quantity"].to_list() == [5000.0]
    assert result.equity["equity"].to_list() == pytest.approx([1e6, 1e6, 1e6 + 5000, 1e6 + 5000])


def test_a_bid_of_zero_is_no_price_for_a_share():
    bars = bars_of(*[FLAT] * 4)
    quotes = ticks((1, 0, 99.0, 100.0), (2, 0, 0.0, 100.0), (2, 1, 99.0, 100.0))
    assert told(run(bars, (0.5, 0.0), fill="quotes", market=Market(quotes=quotes)))[1] == ("exit", 99.0)


# --- actions ---


def test_a_short_position_pays_the_dividend_and_borrows_over_the_weekend():
    """1,000 shares short at 100: 1 a share, and 36 % on 100,000 for three nights of which two are a weekend's."""
    days = [START + timedelta(days=d) for d in (3, 4, 7, 8)]  # Thursday to Tuesday
    bars = pl.concat([bars_of(FLAT, start=d) for d in days])
    actions = acts((7, "dividend", None, 1.0, 20))
    result = run(
        bars, (-0.1,), costs=Costs(bps=0, half_spread_bps=0, borrow_rate=0.36), market=Market(actions=actions)
    )
    assert result.charges["borrow"].to_list() == pytest.approx([300.0, 100.0])
    assert result.charges["dividend"].to_list() == [-1000.0, 0.0]
    assert result.equity["cash"][-1] == pytest.approx(1e6 + 100_000 - 400)
    assert result.equity["equity"][-1] == pytest.approx(1e6 - 1400)


def test_cash_comes_before_a_split_whatever_the_order_of_the_rows():
    bars = bars_of(FLAT, FLAT, FLAT, *[(50, 50, 50, 50)] * 2)
    both = acts((3, "split", 2.0, None), (3, "dividend", None, 1.0))
    one, two = (run(bars, (0.5,), market=Market(actions=a)) for a in (both, both.reverse()))
    assert one.equity.equals(two.equity)
    assert one.equity["equity"][-1] == 1e6 + 5000


@pytest.mark.parametrize("row", [(3, "split", 2.0, None), (3, "dividend", None, 1.0)])
def test_an_action_that_stands_there_twice_is_refused(row):
    bars = bars_of(*[FLAT] * 5)
    with pytest.raises(SchemaError, match="stands there twice"):
        simulate(bars, hold(bars, 0.5), costs=FREE, market=Market(actions=acts(row, row)))
    told_apart = acts(row, row).with_columns(ordinal=pl.Series([0, 1]))
    run(bars, (0.5,), market=Market(actions=told_apart))


# --- sizes, volume, charges ---


@pytest.mark.parametrize("shares", [29, 57, 58])
def test_whole_shares_are_not_lost_to_binary_fractions(shares):
    """0.29 × 100 is 28.999999999999996 to the machine."""
    bars = bars_of(*[(10, 10, 10, 10)] * 3, volume=1_000)
    result = run(bars, (shares / 100,), capital=1000.0, rules=Rules(lot=1.0))
    assert result.fills["quantity"].to_list() == [float(shares)]
    thin = bars_of(*[(10, 10, 10, 10)] * 3, volume=100)
    capped = run(thin, (1.0,), capital=100_000.0, rules=Rules(lot=1.0, participation=shares / 100))
    assert capped.fills["quantity"][0] == float(shares)


def test_impact_is_the_bar_s_volatility_times_the_root_of_the_share():
    """One return of 2 % before the fill; a hundredth of the volume: 0.02 × 0.1 of the notional of 510,000."""
    bars = bars_of(FLAT, (102, 102, 102, 102), (102, 102, 102, 102), volume=500_000)
    result = run(bars, (None, 0.51), costs=Costs(bps=0, half_spread_bps=0, impact=1.0))
    assert result.fills["quantity"].to_list() == [5000.0]
    assert result.fills["impact"].to_list() == pytest.approx([510_000 * 0.02 * 0.1])


def test_costs_stay_positive_where_prices_are_not():
    """One contract of a thousand, bought at −37.63: notional 37,630, a basis point of it 3.763, exposure −37,630."""
    bars = bars_of(*[(-37.63, -37, -38, -37.63)] * 3, symbol="CLK0")
    terms = pl.DataFrame({"symbol": ["CLK0"], "multiplier": [1000.0], "tick": [0.01]})
    result = run(
        bars, (0.04,), costs=Costs(half_spread_bps=0), rules=Rules(lot=1.0), market=Market(contracts=terms)
    )
    assert result.fills.select("quantity", "commission").row(0) == (1.0, pytest.approx(3.763))
    assert result.exposure["net"][-1] == pytest.approx(-0.03763)
    assert result.exposure["gross"][-1] == pytest.approx(0.03763)


def test_a_position_can_be_left_at_a_close_of_exactly_zero():
    bars = bars_of((5, 5, 5, 5), (5, 5, 0, 0), (0, 1, -1, -1), (-1, -1, -1, -1), symbol="CLK0")
    terms = pl.DataFrame({"symbol": ["CLK0"], "multiplier": [1000.0], "tick": [0.01]})
    result = run(bars, (0.005, 0.0), rules=Rules(lot=1.0), market=Market(contracts=terms))
    assert told(result) == [("enter", 0.0), ("exit", -1.0)]


def test_interest_is_earned_on_real_cash_and_paid_on_an_overdraft():
    """Twice the capital in shares leaves a million of debt; a future leaves the cash where it was. 36 %, one day."""
    costs = Costs(bps=0, half_spread_bps=0, interest_rate=0.36)
    bars = bars_of(*[FLAT] * 3)
    assert run(bars, (2.0,), costs=costs).charges["interest"].to_list() == pytest.approx([1000.0, -999.0])
    terms = pl.DataFrame({"symbol": ["ABC"], "multiplier": [50.0], "tick": [0.25]})
    future = run(bars, (2.0,), costs=costs, market=Market(contracts=terms))
    assert future.charges["interest"].to_list() == pytest.approx([1000.0, 1001.0])


def test_several_symbols_share_one_account_that_may_be_overdrawn():
    """Nobody is served first when cash is short, because nobody is refused: the limit belongs into the targets."""
    names = ("AAA", "BBB", "CCC")
    bars = pl.concat([bars_of(*[FLAT] * 3, symbol=n) for n in names]).sort("ts_event", "symbol")
    first = bars.filter(pl.col("ts_event") == START).select("ts_known", "symbol", target=pl.lit(1.0))
    result = run(bars, frames.conform(first, frames.SIGNALS))
    assert result.fills["quantity"].to_list() == [10_000.0] * 3
    assert result.equity["cash"][-1] == -2e6
    assert result.exposure["gross"][-1] == 3.0


def test_a_halt_with_an_open_position_keeps_the_mark_the_order_and_the_loan():
    """No bar for two days: the order waits, the mark stays, the loan of 1,000 a day runs on."""
    other = bars_of(*[FLAT] * 6, symbol="ZZZ")
    bars = pl.concat(
        [bars_of(*[FLAT] * 6).filter(~pl.col("ts_event").is_in([START + 2 * DAY, START + 3 * DAY])), other]
    )
    bars = bars.sort("ts_event", "symbol")
    asked = frames.conform(
        pl.DataFrame({"ts_known": [START + DAY, START + 2 * DAY], "symbol": ["ABC"] * 2, "target": [-1.0, 0.0]})
        .cast({"ts_known": frames.INSTANT}), frames.SIGNALS,
    )  # fmt: skip
    result = run(bars, asked, costs=Costs(bps=0, half_spread_bps=0, borrow_rate=0.36))
    assert result.fills["ts_event"].to_list() == [START + DAY, START + 4 * DAY]
    assert result.charges["borrow"].to_list() == pytest.approx([1000.0] * 3)


# --- cut and resumed ---


def test_an_order_that_waits_over_a_cut_does_not_touch_the_orders_of_the_next_run():
    """The first part leaves the rest of a thin order; in the second part another symbol's order is number 2."""
    thin = bars_of(*[FLAT] * 6, volume=10_000)
    bars = pl.concat([thin, bars_of(*[FLAT] * 6, symbol="ZZZ", volume=0)]).sort("ts_event", "symbol")
    known = bars["ts_known"].unique().sort()
    asked = pl.DataFrame({"ts_known": [known[0], known[3]], "symbol": ["ABC", "ZZZ"], "target": [0.5, 0.5]})
    asked, rules, at = (
        frames.conform(asked, frames.SIGNALS),
        Rules(participation=0.1),
        pl.col("ts_known") <= known[2],
    )
    first = simulate(bars.filter(at), asked.filter(at), costs=FREE, rules=rules)
    second = simulate(bars.filter(~at), asked.filter(~at), costs=FREE, rules=rules, state=first.state)
    assert second.fills["symbol"].unique().to_list() == ["ABC"]
    assert second.orders.select("symbol", "ts_event").rows() == [("ZZZ", None)]
    auditor.audit(second, bars.filter(~at), signals=asked.filter(~at))


def test_a_close_that_was_split_before_the_cut_is_not_split_again_and_not_forgotten():
    """Quotes; no bar of the symbol between the split and the cut: 5,000 shares of 100 are 10,000 of 50."""
    other = bars_of(*[FLAT] * 7, symbol="ZZZ")
    mine = bars_of(FLAT, FLAT, *[(50, 50, 50, 50)] * 5).filter(
        ~pl.col("ts_event").is_in([START + 2 * DAY, START + 3 * DAY])
    )
    bars = pl.concat([mine, other]).sort("ts_event", "symbol")
    asked = pl.DataFrame({"ts_known": [START + 4 * DAY], "symbol": ["ABC"], "target": [0.5]}).cast(
        {"ts_known": frames.INSTANT}
    )
    asked, at = frames.conform(asked, frames.SIGNALS), pl.col("ts_known") <= START + 3 * DAY
    how = dict(costs=FREE, fill="quotes")
    market = Market(actions=acts((2, "split", 2.0, None)), quotes=ticks((4, 1, 50.0, 50.0)))
    whole = simulate(bars, asked, market=market, **how)
    first = simulate(bars.filter(at), asked.filter(at), market=market, **how)
    second = simulate(bars.filter(~at), asked.filter(~at), market=market, state=first.state, **how)
    assert whole.fills["quantity"].to_list() == second.fills["quantity"].to_list() == [10_000.0]
    auditor.audit(second, bars.filter(~at), signals=asked.filter(~at))


def test_a_decision_inside_the_last_bar_before_a_cut_is_sized_on_the_close_before_it():
    bars = bars_of(FLAT, (120, 120, 120, 120), *[(130, 130, 130, 130)] * 3)
    late = (
        pl.when(pl.int_range(pl.len()) == 3).then(pl.col("ts_known").dt.offset_by("1d")).otherwise("ts_known")
    )
    bars = bars.with_columns(ts_published=late)
    asked = pl.DataFrame({"ts_known": [START + 1.5 * DAY], "symbol": ["ABC"], "target": [0.5]}).cast(
        {"ts_known": frames.INSTANT}
    )
    asked, at = frames.conform(asked, frames.SIGNALS), pl.col("ts_known") <= START + 2 * DAY
    first = simulate(bars.filter(at), asked, costs=FREE)
    second = simulate(bars.filter(~at), asked[:0], costs=FREE, state=first.state)
    assert (
        simulate(bars, asked, costs=FREE).fills["quantity"].to_list()
        == second.fills["quantity"].to_list()
        == [5000.0]
    )
    auditor.audit(second, bars.filter(~at), signals=asked[:0])


def test_a_position_whose_contract_changed_is_not_carried_on():
    bars = bars_of(*[FLAT] * 4)
    terms = pl.DataFrame({"symbol": ["ABC"], "multiplier": [50.0], "tick": [0.25]})
    at = pl.col("ts_known") <= bars["ts_known"][1]
    first = simulate(bars.filter(at), hold(bars, 0.5), costs=FREE, market=Market(contracts=terms))
    with pytest.raises(ValueError, match="held at 50 a point, and now it is 1"):
        simulate(bars.filter(~at), hold(bars)[:0], costs=FREE, state=first.state)


def test_a_delisting_before_the_first_bar_of_a_resumed_run_is_audited():
    bars = pl.concat([bars_of(*[FLAT] * 3), bars_of(*[FLAT] * 5, symbol="ZZZ")]).sort("ts_event", "symbol")
    market = Market(actions=acts((3, "delisting", 0.5, None)))
    at = pl.col("ts_known") <= START + 3 * DAY
    asked = hold(bars.filter(pl.col("symbol") == "ABC"), 0.5)
    first = simulate(bars.filter(at), asked, costs=FREE, market=market)
    second = simulate(bars.filter(~at), asked[:0], costs=FREE, market=market, state=first.state)
    assert told(second) == [("delist", 50.0)]
    auditor.audit(second, bars.filter(~at), signals=asked[:0])
