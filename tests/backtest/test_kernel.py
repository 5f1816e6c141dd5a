"""The walk under random markets with everything switched on: audited, cut and resumed, scaled, charged."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit import frames
from researchkit.backtest import Costs, assembly, auditor
from researchkit.backtest.fills import simulate
from researchkit.backtest.market import Market
from researchkit.backtest.rules import Rules
from researchkit.errors import IntegrityError

SYMBOLS = ("AAA", "BBB", "CCC", "FUT")
FUTURE = pl.DataFrame({"symbol": ["FUT"], "multiplier": [20.0], "tick": [0.25]})
ACTIONS = {
    "ts_event": frames.INSTANT,
    "symbol": pl.String,
    "kind": pl.String,
    "ratio": pl.Float64,
    "amount": pl.Float64,
    "ts_pay": frames.INSTANT,
}
EVERYTHING = Costs(
    bps=1.0, half_spread_bps=0.7, borrow_rate=0.05, per_unit=0.01, minimum=5.0, spread_ticks=0.5,
    slippage_bps=0.3, volume_share=0.1, impact=0.5, interest_rate=0.03,
)  # fmt: skip


def market(seed, sessions=60, symbols=SYMBOLS, holes=0.15):
    """Random bars: gaps in time, symbols that miss sessions, some bars without volume, a future whose prices are negative."""
    rng = np.random.default_rng(seed)
    start, rows = datetime(2001, 1, 1, tzinfo=UTC), []
    days = [start + timedelta(days=int(d)) for d in np.cumsum(rng.integers(1, 4, sessions))]
    for symbol in symbols:
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, sessions)))
        open_ = close * np.exp(rng.normal(0, 0.01, sessions))
        if symbol == "FUT":
            close, open_ = close - 160.0, open_ - 160.0
        for i, day in enumerate(days):
            if i and rng.random() < holes:
                continue
            wide = 1.5 * abs(rng.normal(0, 1))
            high, low = max(close[i], open_[i]) + wide, min(close[i], open_[i]) - wide
            if symbol != "FUT":
                low = max(low, 0.5)
            volume = int(rng.choice([0, 5_000, 200_000], p=[0.1, 0.5, 0.4]))
            end = day + timedelta(days=1)
            rows.append((day, symbol, end, end, open_[i], high, low, close[i], volume))
    return frames.conform(pl.DataFrame(rows, schema=list(frames.BARS.columns), orient="row"), frames.BARS)


def random_targets(bars, seed, share=0.3):
    """Random targets, long and short, at some of the bars' own instants."""
    rng = np.random.default_rng(seed + 1000)
    rows = bars.select("ts_known", "symbol").filter(pl.Series(rng.random(bars.height) < share))
    values = rng.choice([-1.0, -0.5, 0.0, 0.0, 0.3, 0.4, 1.0], rows.height)
    return frames.conform(rows.with_columns(target=pl.Series(values)), frames.SIGNALS)


def actions(bars, seed):
    """Splits, dividends and one delisting at random days."""
    rng = np.random.default_rng(seed + 2000)
    days = bars["ts_event"].unique().sort()
    made = []
    for _ in range(6):
        day, symbol = days[int(rng.integers(5, len(days) - 2))], str(rng.choice(["AAA", "BBB"]))
        if rng.random() < 0.5:
            made.append((day, symbol, "split", float(rng.choice([2.0, 0.5, 3.0])), None, None))
        else:
            pay = day + timedelta(days=int(rng.integers(0, 20)))
            made.append((day, symbol, "dividend", None, float(rng.uniform(0.1, 2.0)), pay))
    made.append((days[-3], "CCC", "delisting", None, None, None))
    unique = {(a[0], a[1]): a for a in made}
    return pl.DataFrame(list(unique.values()), schema=ACTIONS, orient="row").sort("ts_event")


def settlements(bars, seed):
    """Marks a little off the close for some sessions of the future."""
    rng = np.random.default_rng(seed + 3000)
    rows = bars.filter(pl.col("symbol") == "FUT").select("ts_known", "symbol", mark="close")
    rows = rows.filter(pl.Series(rng.random(rows.height) < 0.6))
    return rows.with_columns(pl.col("mark") + pl.Series(rng.normal(0, 0.2, rows.height)))


def ticks(bars, seed):
    """A quote some minutes after each bar's beginning, some of them incomplete."""
    rng = np.random.default_rng(seed + 4000)
    mid, half = bars["open"].to_numpy(), np.abs(rng.normal(0.05, 0.02, bars.height))
    ask = np.where(rng.random(bars.height) < 0.1, np.nan, mid + half)
    when = bars["ts_event"].dt.offset_by("1m")
    made = pl.DataFrame({"ts_event": when, "symbol": bars["symbol"], "bid_px": mid - half, "ask_px": ask})
    return made.with_columns(pl.col("ask_px").fill_nan(None))


def everything(seed, fill, bars=None):
    """A market and the arguments of a run in which everything is switched on."""
    bars = market(seed) if bars is None else bars
    rng = np.random.default_rng(seed + 5000)
    quoted = fill == "quotes"
    rules = Rules(
        stop=float(rng.choice([0.01, 0.03])),
        take=float(rng.choice([0.02, 0.05])),
        bars=int(rng.integers(2, 12)),
        lot=None if rng.random() < 0.5 else 1.0,
        participation=None if quoted or rng.random() < 0.3 else 0.05,
        remainder=str(rng.choice(["carry", "cancel"])),
    )
    beside = Market(
        actions=actions(bars, seed),
        marks=settlements(bars, seed),
        contracts=FUTURE,
        quotes=ticks(bars, seed) if quoted else None,
    )
    return bars, dict(costs=EVERYTHING, fill=fill, rules=rules, market=beside)


FILLS = ["next_close", "next_open", "quotes"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000), fill=st.sampled_from(FILLS))
def test_the_auditor_agrees_with_everything_switched_on(seed, fill):
    bars, how = everything(seed, fill)
    result = simulate(bars, random_targets(bars, seed), **how)
    assert auditor.audit(result, bars).largest_gap < 1e-11
    assert np.isfinite(result.equity["equity"].to_numpy()).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000), fill=st.sampled_from(FILLS), cut=st.integers(2, 57), plain=st.booleans())
def test_a_run_cut_anywhere_and_resumed_gives_the_same_bits(seed, fill, cut, plain):
    bars, how = everything(seed, fill)
    if plain and fill != "quotes":
        how = {**how, "rules": None, "market": Market(contracts=FUTURE), "costs": Costs(borrow_rate=0.05)}
    targets = random_targets(bars, seed)
    whole = simulate(bars, targets, **how)
    at = pl.col("ts_known") <= bars["ts_known"].unique().sort()[cut]
    inside = {k: v for k, v in how.items() if k != "market"}
    trimmed = Market(
        actions=how["market"].actions,
        quotes=how["market"].quotes,
        contracts=FUTURE,
        marks=None if how["market"].marks is None else how["market"].marks.filter(at),
    )
    rest = Market(
        actions=how["market"].actions,
        quotes=how["market"].quotes,
        contracts=FUTURE,
        marks=None if how["market"].marks is None else how["market"].marks.filter(~at),
    )
    first = simulate(bars.filter(at), targets.filter(at), market=trimmed, **inside)
    second = simulate(bars.filter(~at), targets.filter(~at), market=rest, state=first.state, **inside)
    for name in ("equity", "exposure", "charges", "positions"):
        joined = pl.concat([getattr(first, name), getattr(second, name)])
        assert joined.equals(getattr(whole, name)), name
    key = ["ts_event", "symbol", "order"]
    assert pl.concat([first.fills, second.fills]).sort(key).equals(whole.fills.sort(key))
    assert second.state.orders == whole.state.orders
    assert auditor.audit(second, bars.filter(~at)).largest_gap < 1e-11


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100_000), fill=st.sampled_from(FILLS[:2]))
def test_the_lean_and_the_full_loop_give_the_same_bits(seed, fill):
    bars = market(seed)
    targets = random_targets(bars, seed)
    costs = Costs(borrow_rate=0.05, interest_rate=0.02, per_unit=0.01, minimum=3.0, slippage_bps=1.0)
    beside = Market(contracts=FUTURE)
    lean = simulate(bars, targets, costs=costs, fill=fill, market=beside)
    nothing = Market(contracts=FUTURE, actions=pl.DataFrame(schema=ACTIONS))
    assert not assembly.wanted(costs, Rules(), beside, fill)
    assert assembly.wanted(costs, Rules(), nothing, fill)
    full = simulate(bars, targets, costs=costs, fill=fill, market=nothing)
    for name in ("orders", "fills", "positions", "equity", "exposure", "charges"):
        assert getattr(lean, name).equals(getattr(full, name)), name


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100_000), fill=st.sampled_from(FILLS), which=st.integers(0, 7))
def test_costs_never_help(seed, fill, which):
    bars, how = everything(seed, fill)
    how["rules"] = Rules(stop=0.03, take=0.05, bars=7)
    dearer = [
        dict(bps=5.0), dict(half_spread_bps=5.0), dict(borrow_rate=0.2), dict(per_unit=0.5), dict(minimum=50.0),
        dict(slippage_bps=9.0), dict(volume_share=1.0), dict(impact=3.0),
    ][which]  # fmt: skip
    base = dict(volume_share=0.01, impact=0.1)
    targets = random_targets(bars, seed)
    cheap = simulate(bars, targets, **{**how, "costs": Costs(**base)})
    dear = simulate(bars, targets, **{**how, "costs": Costs(**{**base, **dearer})})
    assert cheap.fills.select("ts_event", "symbol", "quantity", "price").equals(
        dear.fills.select("ts_event", "symbol", "quantity", "price")
    )
    assert (dear.equity["equity"] <= cheap.equity["equity"] + 1e-6).all()
    assert (dear.equity["net"] <= cheap.equity["net"] + 1e-15).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100_000), fill=st.sampled_from(FILLS), factor=st.floats(0.1, 20.0))
def test_scaling_cash_scales_the_account(seed, fill, factor):
    bars, how = everything(seed, fill)
    how["rules"] = Rules(stop=0.03, take=0.05, bars=7)
    how["costs"] = Costs(borrow_rate=0.05, interest_rate=0.02, slippage_bps=1.0)
    targets = random_targets(bars, seed)
    one = simulate(bars, targets, **how)
    many = simulate(bars, targets, capital=1e6 * factor, **how)
    np.testing.assert_allclose(many.equity["equity"], factor * one.equity["equity"], rtol=1e-11)
    np.testing.assert_allclose(many.equity["net"], one.equity["net"], rtol=1e-9, atol=1e-14)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100_000), fill=st.sampled_from(FILLS), cut=st.integers(5, 55))
def test_the_future_changes_nothing_before_it_with_everything_switched_on(seed, fill, cut):
    bars, how = everything(seed, fill)
    targets = random_targets(bars, seed)
    now = bars["ts_known"].unique().sort()[cut]
    at = pl.col("ts_known") <= now
    whole = simulate(bars, targets, **how)
    past = {**how, "market": Market(
        actions=how["market"].actions.filter(pl.col("ts_event") < now), contracts=FUTURE,
        marks=how["market"].marks.filter(at),
        quotes=None if how["market"].quotes is None else how["market"].quotes.filter(pl.col("ts_event") <= now),
    )}  # fmt: skip
    short = simulate(bars.filter(at), targets.filter(at), **past)
    assert short.equity.equals(whole.equity.filter(at))
    assert short.positions.equals(whole.positions.filter(at))


# --- what the auditor must find ---


def everything_run(seed=7, fill="next_open"):
    """One run with everything, and its bars."""
    bars, how = everything(seed, fill)
    how["rules"] = Rules(stop=0.02, take=0.03, bars=6, participation=0.05)
    return simulate(bars, random_targets(bars, seed), **how), bars


def altered(frame, row, **values):
    """One row of a frame, changed."""
    here = pl.int_range(pl.len()) == row
    return frame.with_columns(pl.when(here).then(v).otherwise(pl.col(k)).alias(k) for k, v in values.items())


CHANGES = {
    "price": (pl.col("price") * 1.01, "price"),
    "quantity": (pl.col("quantity") * 0.5, "commission|volume|equity|spread|slippage"),
    "commission": (pl.col("commission") + 0.5, "wrong commission"),
    "spread": (pl.col("spread") + 0.5, "wrong spread"),
    "slippage": (pl.col("slippage") + 0.5, "wrong slippage"),
    "impact": (pl.col("impact") + 0.5, "wrong impact"),
    "ts_event": (
        pl.col("ts_event").dt.offset_by("-40d"),
        "no bar|before its decision|recorded price|exit price|outside",
    ),
}


@pytest.mark.parametrize("column", CHANGES)
@pytest.mark.parametrize("fill", ["next_close", "next_open"])
def test_a_changed_fill_is_found_wherever_it_stands(column, fill):
    from dataclasses import replace

    result, bars = everything_run(fill=fill)
    value, words = CHANGES[column]
    auditor.audit(result, bars)
    kept = [i for i, r in enumerate(result.fills["reason"].to_list()) if r != "delist"]
    for row in kept[:: max(1, len(kept) // 12)]:
        made = altered(result.fills, row, **{column: value})
        with pytest.raises(IntegrityError, match=words):
            auditor.audit(replace(result, fills=made), bars)


@pytest.mark.parametrize("column", ["equity", "net", "costs"])
def test_a_changed_account_is_found(column):
    from dataclasses import replace

    result, bars = everything_run()
    for row in (0, 17, 40, 59):
        made = altered(result.equity, row, **{column: pl.col(column) + (0.01 if column != "net" else 1e-8)})
        with pytest.raises(IntegrityError):
            auditor.audit(replace(result, equity=made), bars)


def test_a_forgotten_fill_action_mark_or_contract_is_found():
    from dataclasses import replace

    result, bars = everything_run()
    with pytest.raises(IntegrityError):
        auditor.audit(replace(result, fills=result.fills[1:]), bars)
    for name in ("actions", "marks", "contracts"):
        poorer = replace(result.market, **{name: None})
        with pytest.raises((IntegrityError, ValueError)):
            auditor.audit(replace(result, market=poorer), bars)
    shown = result.exposure.with_columns(pl.col("gross") * 1.01)
    with pytest.raises(IntegrityError, match="exposure"):
        auditor.audit(replace(result, exposure=shown), bars)
