"""Lies that the auditor must find: books that are consistent in themselves and tell of another market or other terms.

Changing one number in a table is the easy lie. Here most lies are whole runs: the stop that did not fire comes from
a run that had none, and its equity, positions and charges all follow from its fills. Each passes the audit of what
it really is, and is then presented as something else.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest
from test_worked import DAY, FLAT, FREE, START, bars_of, hold

from researchkit import frames
from researchkit.backtest import Costs, auditor
from researchkit.backtest.fills import simulate
from researchkit.backtest.market import Market
from researchkit.backtest.rolls import rolled
from researchkit.backtest.rules import Rules
from researchkit.errors import IntegrityError

ACTIONS = {
    "ts_event": frames.INSTANT, "symbol": pl.String, "kind": pl.String, "ratio": pl.Float64, "amount": pl.Float64,
    "ts_pay": frames.INSTANT,
}  # fmt: skip
DIP, GAP, WILD = (100, 101, 94, 96), (92, 93, 91, 92), (100, 107, 94, 96)


def acts(*rows):
    """Actions from (day, kind, ratio, amount)."""
    made = [(START + d * DAY, "ABC", kind, ratio, amount, None) for d, kind, ratio, amount in rows]
    return pl.DataFrame(made, schema=ACTIONS, orient="row")


def future(multiplier):
    """Contract terms of one future."""
    return Market(contracts=pl.DataFrame({"symbol": ["ABC"], "multiplier": [multiplier], "tick": [0.25]}))


def told(
    claimed: dict[str, object], really: dict[str, object], *rows, targets=(0.5,), volume=1_000_000, on=None
):
    """A run under `really`, audited as such, then presented as `claimed`; `on`: bars that it was really made on."""
    bars = bars_of(*rows, volume=volume)
    made_on = bars if on is None else bars_of(*on, volume=volume)
    run = simulate(made_on, hold(bars, *targets), **{"costs": FREE, **really})
    auditor.audit(run, made_on, signals=hold(bars, *targets))
    return replace(run, **claimed), bars


FIVE = [FLAT] * 5
SLOW = dict(participation=0.1)
LIES: dict[str, Callable[[], tuple]] = {
    "a stop that was touched and did not fire": lambda: told(dict(rules=Rules(stop=0.05)), {}, FLAT, FLAT, DIP, FLAT),
    "a stop of a short position": lambda: told(
        dict(rules=Rules(stop=0.05)), {}, FLAT, FLAT, (100, 106, 100, 100), FLAT, targets=(-0.5,)),
    "a stop at its price where the open had jumped it": lambda: told(
        {}, dict(rules=Rules(stop=0.05)), FLAT, FLAT, GAP, FLAT, on=(FLAT, FLAT, (96, 96, 91, 92), FLAT)),
    "a stop of a bracket that is not there": lambda: told(
        dict(rules=Rules(brackets=hold(bars_of(*FIVE), 0.5).select(
            "ts_known", "symbol", stop=pl.lit(0.05), take=pl.lit(None, pl.Float64), bars=pl.lit(None, pl.Int64)))),
        {}, FLAT, FLAT, DIP, FLAT),
    "a target that was only touched": lambda: told(
        {}, dict(rules=Rules(take=0.05)), FLAT, FLAT, (100, 105, 100, 101), FLAT,
        on=(FLAT, FLAT, (100, 106, 100, 101), FLAT)),
    "a target first where nobody knows": lambda: told(
        dict(market=Market()), dict(rules=Rules(stop=0.05, take=0.05), market=Market(finer=bars_of(
            (100, 107, 99, 99), (99, 99, 94, 96), step=timedelta(hours=12), start=START + 2 * DAY))),
        FLAT, FLAT, WILD, FLAT),
    "finer bars that say otherwise": lambda: told(
        dict(market=Market(finer=bars_of(
            (100, 107, 99, 99), (99, 99, 94, 96), step=timedelta(hours=12), start=START + 2 * DAY))),
        dict(rules=Rules(stop=0.05, take=0.05)), FLAT, FLAT, WILD, FLAT),
    "a position kept beyond its time": lambda: told(dict(rules=Rules(bars=2)), {}, *FIVE),
    "a price that never existed": lambda: told({}, {}, *FIVE, on=[(100, 100, 100, 100), (99, 99, 99, 99), *FIVE[2:]]),
    "more than the volume allowed": lambda: told(dict(rules=Rules(**SLOW)), {}, *FIVE, volume=20_000),
    "the rest of an order dropped": lambda: told(
        dict(rules=Rules(**SLOW)), dict(rules=Rules(**SLOW, remainder="cancel")), *FIVE, volume=20_000),
    "parts of a lot": lambda: told(dict(rules=Rules(lot=300.0)), {}, *FIVE),
    "a commission charged twice": lambda: told(dict(costs=Costs(bps=1)), dict(costs=Costs(bps=2)), *FIVE),
    "a minimum forgotten": lambda: told(dict(costs=replace(FREE, minimum=9.0)), {}, *FIVE),
    "impact forgotten": lambda: told(
        dict(costs=replace(FREE, impact=1.0)), dict(costs=replace(FREE, impact=1e-12)), FLAT, (100, 102, 100, 102), FLAT,
        FLAT, targets=(None, 0.5)),
    "a borrow fee missed": lambda: told(dict(costs=replace(FREE, borrow_rate=0.1)), {}, *FIVE, targets=(-0.5,)),
    "interest missed": lambda: told(dict(costs=replace(FREE, interest_rate=0.1)), {}, *FIVE),
    "a dividend omitted": lambda: told(dict(market=Market(actions=acts((3, "dividend", None, 1.0)))), {}, *FIVE),
    "a dividend that a short did not pay": lambda: told(
        dict(market=Market(actions=acts((3, "dividend", None, 1.0)))), {}, *FIVE, targets=(-0.5,)),
    "a split omitted": lambda: told(dict(market=Market(actions=acts((3, "split", 2.0, None)))), {}, *FIVE),
    "a delisting omitted": lambda: told(dict(market=Market(actions=acts((3, "delisting", None, None)))), {}, *FIVE),
    "another multiplier": lambda: told(dict(market=future(50.0)), dict(market=future(20.0)), FLAT, FLAT, DIP, FLAT),
    "a settlement ignored": lambda: told(
        dict(market=Market(marks=bars_of(*FIVE)[2:3].select("ts_known", "symbol", mark=pl.lit(99.0)))), {}, *FIVE),
    "bought back on the morning after a stop": lambda: told(
        {}, dict(rules=Rules(stop=0.05)), FLAT, FLAT, DIP, FLAT, FLAT, targets=(0.5, None, 0.6),
        on=(FLAT, FLAT, (100, 101, 99, 96), FLAT, FLAT)),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_that_is_consistent_is_found(lie):
    result, bars = LIES[lie]()
    with pytest.raises(IntegrityError):
        auditor.audit(result, bars)


def rolling():
    """Two contracts, a series, and what it asks for."""
    bars = pl.concat(
        [bars_of(*[FLAT] * 6, symbol="ESH3"), bars_of(*[(110, 110, 110, 110)] * 6, symbol="ESM3")]
    )
    bars = bars.sort("ts_event", "symbol")
    known = bars["ts_known"].unique().sort()
    table = pl.DataFrame(
        [(START, "ES", "ESH3", START, known[2]), (START, "ES", "ESM3", known[2], known[5])],
        schema={"ts_known": frames.INSTANT, "series": pl.String, "symbol": pl.String, "since": frames.INSTANT,
                "until": frames.INSTANT}, orient="row",
    )  # fmt: skip
    series = frames.conform(
        pl.DataFrame({"ts_known": known[:1], "symbol": ["ES"], "target": [0.5]}), frames.SIGNALS
    )
    terms = pl.DataFrame({"symbol": ["ESH3", "ESM3"], "multiplier": [50.0, 50.0], "tick": [0.25, 0.25]})
    return bars, rolled(series, table), dict(costs=Costs(), market=Market(contracts=terms))


def test_a_roll_is_two_trades_with_two_costs_and_one_leg_is_found():
    bars, asked, how = rolling()
    whole = simulate(bars, asked, **how)
    auditor.audit(whole, bars, signals=asked)
    assert whole.fills["symbol"].to_list() == ["ESH3", "ESH3", "ESM3"]
    assert whole.fills["commission"].to_list() == pytest.approx([50.0, 50.0, 50.0])
    assert whole.equity["equity"][-1] == pytest.approx(1e6 - 3 * 75.0)
    leg = asked.filter(~((pl.col("symbol") == "ESH3") & (pl.col("target") == 0.0)))
    one = simulate(bars, leg, **how)
    auditor.audit(one, bars, signals=leg)
    with pytest.raises(IntegrityError, match="an order of ESH3 on 2013-06-06 to 0 is missing"):
        auditor.audit(one, bars, signals=asked)
    renamed = one.fills.with_columns(pl.col("order").replace({2: 3}))
    with pytest.raises(IntegrityError, match="there should be a fill that is missing: exit"):
        auditor.audit(replace(one, orders=whole.orders, fills=renamed), bars)


def test_a_fill_a_bar_early_is_found():
    bars = bars_of(*[(100 + i, 101 + i, 99 + i, 100 + i) for i in range(6)])
    for lag, words in ((1, "trades before its decision"), (-1, "there should be a fill that is missing")):
        run = simulate(bars, hold(bars, None, None, 0.5), costs=FREE)
        moved = run.orders.with_columns(pl.col("ts_known").dt.offset_by(f"{lag}d"))
        with pytest.raises(IntegrityError, match=words):
            auditor.audit(replace(run, orders=moved), bars)


def test_a_size_on_a_close_that_nobody_knew_is_found():
    rows = [(100 + i, 101 + i, 99 + i, 100 + i) for i in range(6)]
    bars = bars_of(*rows)
    late = bars.with_columns(ts_published=pl.col("ts_known").dt.offset_by("2d"))
    run = simulate(bars, hold(bars, None, None, 0.5), costs=FREE)
    with pytest.raises(IntegrityError, match=r"quantity, price or reason is wrong|not sized"):
        auditor.audit(run, late)


COLUMNS = [
    ("fills", "borrow"), ("fills", "quantity"), ("positions", "quantity"), ("positions", "price"), ("positions", "value"),
    ("equity", "cash"), ("equity", "position_value"), ("equity", "gross"), ("equity", "turnover"), ("equity", "costs"),
    ("exposure", "gross"), ("exposure", "net"), ("charges", "commission"), ("charges", "borrow"), ("charges", "interest"),
    ("charges", "dividend"), ("charges", "spread"),
]  # fmt: skip


@pytest.fixture(scope="module")
def short_run():
    """A short position with a loan, a dividend, interest and commissions."""
    bars = bars_of(*[(100 + i, 102 + i, 99 + i, 101 + i) for i in range(8)])
    costs = Costs(borrow_rate=0.1, interest_rate=0.05)
    market = Market(actions=acts((4, "dividend", None, 1.0)))
    return simulate(bars, hold(bars, -0.5, -0.5, -0.7, -0.7, -0.7, 0.0), costs=costs, market=market), bars


@pytest.mark.parametrize(("frame", "column"), COLUMNS)
def test_every_column_of_the_books_is_compared(short_run, frame, column):
    result, bars = short_run
    auditor.audit(result, bars)
    table = getattr(result, frame)
    row = (table[column] != 0).arg_true()[-1]
    here = pl.int_range(pl.len()) == row
    made = table.with_columns(
        pl.when(here).then(pl.col(column) * 1.001).otherwise(pl.col(column)).alias(column)
    )
    with pytest.raises(IntegrityError):
        auditor.audit(replace(result, **{frame: made}), bars)


def test_a_charge_under_another_name_is_found(short_run):
    result, bars = short_run
    swapped = result.charges.rename({"commission": "spread", "spread": "commission"}).select(
        result.charges.columns
    )
    with pytest.raises(IntegrityError, match="among the charges"):
        auditor.audit(replace(result, charges=swapped), bars)


def test_a_forgotten_position_and_a_wrong_count_of_exits_are_found(short_run):
    result, bars = short_run
    with pytest.raises(IntegrityError, match="of a position"):
        auditor.audit(replace(result, positions=result.positions[:-1]), bars)
    with pytest.raises(IntegrityError, match="exits were counted"):
        auditor.audit(replace(result, exits=replace(result.exits, both=1)), bars)
