"""Properties of the walk where everything happens at once: nights with quotes, finer bars, brackets, prices below zero."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import harsh
import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit.backtest import Costs, auditor
from researchkit.backtest.fills import simulate
from researchkit.backtest.market import Market

FILLS = ("next_close", "next_open", "quotes")
FRAMES = ("orders", "fills", "positions", "equity", "exposure", "charges")
SEEDS, ANY = st.integers(0, 10**6), st.sampled_from(FILLS)


def same(one, two, frames=FRAMES):
    """Whether two results have the same bits."""
    return all(getattr(one, name).equals(getattr(two, name)) for name in frames) and repr(one.exits) == repr(
        two.exits
    )


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, fill=ANY)
def test_the_auditor_agrees(seed, fill):
    bars, asked, how = harsh.everything(seed, fill)
    result = simulate(bars, asked, **how)
    assert auditor.audit(result, bars, signals=asked).largest_gap < 1e-10


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, fill=ANY, cut=st.integers(1, 38))
def test_a_run_cut_anywhere_and_resumed_gives_the_same_bits(seed, fill, cut):
    bars, asked, how = harsh.everything(seed, fill)
    market = how.pop("market")
    whole = simulate(bars, asked, market=market, **how)
    at = pl.col("ts_known") <= bars["ts_known"].unique().sort()[cut]
    first = simulate(bars.filter(at), asked.filter(at), market=harsh.trimmed(market, at), **how)
    rest = harsh.trimmed(market, ~at)
    second = simulate(bars.filter(~at), asked.filter(~at), market=rest, state=first.state, **how)
    for name in ("equity", "exposure", "charges", "positions"):
        assert pl.concat([getattr(first, name), getattr(second, name)]).equals(getattr(whole, name)), name
    key = ["ts_event", "symbol", "order"]
    assert pl.concat([first.fills, second.fills]).sort(key).equals(whole.fills.sort(key))
    counts = [first.exits.touched + second.exits.touched, first.exits.both + second.exits.both]
    assert counts == [whole.exits.touched, whole.exits.both]
    auditor.audit(first, bars.filter(at), signals=asked.filter(at))
    auditor.audit(second, bars.filter(~at), signals=asked.filter(~at))


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, fill=ANY)
def test_the_order_of_rows_does_not_matter(seed, fill):
    """Bars, signals and finer bars are refused unless sorted; everything else may come in any order."""
    bars, asked, how = harsh.everything(seed, fill)
    market, rules = how["market"], how["rules"]
    other = Market(
        actions=harsh.shuffled(market.actions, seed), marks=harsh.shuffled(market.marks, seed), finer=market.finer,
        quotes=harsh.shuffled(market.quotes, seed), contracts=market.contracts,
    )  # fmt: skip
    mixed = {**how, "market": other, "rules": replace(rules, brackets=harsh.shuffled(rules.brackets, seed))}
    one, two = simulate(bars, asked, **how), simulate(bars, asked, **mixed)
    assert same(one, two)
    auditor.audit(two, bars, signals=asked)


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, fill=ANY, factor=st.floats(0.1, 20.0))
def test_scaling_cash_scales_the_account(seed, fill, factor):
    costs = Costs(borrow_rate=0.05, interest_rate=0.02, slippage_bps=1.0)
    bars, asked, how = harsh.everything(seed, fill, costs=costs, free=True)
    one = simulate(bars, asked, **how)
    many = simulate(bars, asked, capital=1e6 * factor, **how)
    size = np.abs(one.positions["value"].to_numpy()).max(initial=1e6)
    np.testing.assert_allclose(
        many.equity["equity"] / factor, one.equity["equity"], rtol=0, atol=1e-11 * size
    )
    assert many.fills["reason"].equals(one.fills["reason"])


DEARER = [
    dict(bps=5.0), dict(half_spread_bps=5.0), dict(borrow_rate=0.2), dict(per_unit=0.5), dict(minimum=50.0),
    dict(slippage_bps=9.0), dict(volume_share=1.0), dict(impact=3.0), dict(spread_ticks=2.0),
]  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, fill=ANY, which=st.sampled_from(range(len(DEARER))), rate=st.sampled_from([0.0, 0.03]))
def test_costs_never_help(seed, fill, which, rate):
    """For every signal: sizes are shares of a constant capital, so costs move no fill.

    The one exception is a cost by volume where there was none: then bars without volume cannot be traded, and
    fills do move. So both runs have one. Interest is no cost, and with it dearer runs earn less on less cash.
    A single session may be cheaper under a minimum, which an order pays at its first fill and not at its last.
    """
    base = dict(volume_share=0.01, impact=0.1, interest_rate=rate)
    bars, asked, how = harsh.everything(seed, fill, costs=Costs(**base))
    cheap = simulate(bars, asked, **how)
    dear = simulate(bars, asked, **{**how, "costs": Costs(**{**base, **DEARER[which]})})
    columns = ("ts_event", "symbol", "order", "quantity", "price", "reason")
    assert cheap.fills.select(columns).equals(dear.fills.select(columns))
    size = np.abs(cheap.positions["value"].to_numpy()).max(initial=1e6)
    assert (dear.equity["equity"] <= cheap.equity["equity"] + 1e-12 * size).all()
    assert (dear.equity["costs"].cum_sum() >= cheap.equity["costs"].cum_sum() - 1e-12 * size).all()


def test_threads_that_run_at_once_do_not_disturb_each_other():
    cases = [harsh.everything(seed, fill) for seed in (1, 2) for fill in FILLS]
    alone = [simulate(bars, asked, **how) for bars, asked, how in cases]
    with ThreadPoolExecutor(4) as pool:
        turns = list(range(len(cases))) * 3
        at_once = list(pool.map(lambda i: simulate(cases[i][0], cases[i][1], **cases[i][2]), turns))
    assert all(same(alone[i], result) for i, result in zip(turns, at_once, strict=True))


def test_this_world_has_everything_in_it():
    """A property of nothing holds always: the world must make each kind of fill, and exits that only finer bars settle."""
    reasons, resolved, below, nights = set(), 0, 0, 0
    for seed in range(6):
        for fill in FILLS:
            bars, asked, how = harsh.everything(seed, fill)
            result = simulate(bars, asked, **how)
            reasons |= set(result.fills["reason"])
            resolved += result.exits.resolved
            below += (result.fills["price"] < 0).sum()
            if fill == "quotes":
                nights += (result.fills["ts_event"].dt.hour() >= 20).sum()
    assert reasons == {"enter", "add", "reduce", "exit", "reverse", "stop", "target", "time", "delist"}
    assert min(resolved, below, nights) > 5
