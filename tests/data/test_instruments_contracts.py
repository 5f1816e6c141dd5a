"""Rolls over years of real calendars: never late, never back, never two contracts at once; and what real files say."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit.data import marks
from researchkit.data.activity import ACTIVITY
from researchkit.data.continuous import RULES, parse_series, rolls
from researchkit.data.contracts import ASSUMED, TERMS, contract_terms, deadline, weekdays_left
from researchkit.data.dbn import read
from researchkit.data.sessions import occupancy, placed, session_bars, sessions
from researchkit.data.stitched import back_adjusted, per_contract
from researchkit.errors import SchemaError
from researchkit.frames import BARS, check

PLANS = {name: sessions(name, "2010-01-01", "2013-12-31") for name in ("CMES", "XNYS")}
MONTHS = {1: "F", 2: "G", 3: "H", 4: "J", 5: "K", 6: "M", 7: "N", 8: "Q", 9: "U", 10: "V", 11: "X", 12: "Z"}


def chain(first: int, last: int, step: int, *, cash: bool, day: int = 19) -> pl.DataFrame:
    """A contract every few months, listed two years ahead."""
    rows = []
    for number in range(first * 12, last * 12 + 12, step):
        year, month = divmod(number, 12)
        ends = datetime(year, month + 1, day, 13, 30, tzinfo=UTC)
        rows.append({
            "ts_known": ends - timedelta(days=730), "symbol": f"XX{MONTHS[month + 1]}{year}", "expiration": ends,
            "activation": None, "delivery": date(year, month + 1, 1), "cash": cash, "listed": True,
        })  # fmt: skip
    return check(pl.DataFrame(rows, schema=dict(TERMS.columns)).sort(TERMS.key), TERMS)


def active(terms: pl.DataFrame, plan: pl.DataFrame, numbers: list[int]) -> pl.DataFrame:
    """Numbers for every contract and every seventh session, in a cycle, known when the session is over."""
    seen = plan.gather_every(7).select("session", ts_known="close").join(terms.select("symbol"), how="cross")
    cycle = [numbers[i % len(numbers)] for i in range(seen.height)]
    rows = (
        seen.with_columns(value=pl.Series(cycle, dtype=pl.Int64))
        .sort("ts_known", "symbol")
        .with_row_index("place")
    )
    return check(rows.select(list(ACTIVITY.columns)), ACTIVITY)


def days_held(found: pl.DataFrame, plan: pl.DataFrame) -> pl.DataFrame:
    """The contract of each session."""
    at = plan.select("session", "open").join_asof(
        found.select("since", "until", "symbol"), left_on="open", right_on="since"
    )
    return at.filter((pl.col("open") < pl.col("until")).fill_null(value=True), pl.col("symbol").is_not_null())


@settings(max_examples=8, deadline=None)
@given(
    calendar=st.sampled_from(sorted(PLANS)), rule=st.sampled_from(sorted(RULES)), rank=st.integers(0, 2),
    cash=st.booleans(), step=st.sampled_from([1, 2, 3]), day=st.integers(5, 28), out=st.integers(2, 8),
    numbers=st.lists(st.integers(0, 1000), min_size=1, max_size=9),
)  # fmt: skip
def test_every_roll_is_in_time_and_forwards(calendar, rule, rank, cash, step, day, out, numbers) -> None:
    plan, terms = PLANS[calendar], chain(2010, 2013, step, cash=cash, day=day)
    known = None if rule == "c" else active(terms, plan, numbers)
    found = rolls(f"XX.{rule}.{rank}", terms, plan, activity=known, asof="2013-12-31", out=out)
    assert found.height
    expiry = dict(terms.select("symbol", "expiration").iter_rows())
    ends = [expiry[s] for s in found["symbol"]]
    assert ends == sorted(ends), "a series went back"
    assert len(set(ends)) == len(ends)
    last = {
        r["symbol"]: deadline(r["expiration"].date(), cash=cash, delivery=r["delivery"])
        for r in terms.iter_rows(named=True)
    }
    for held, symbol in days_held(found, plan).select("session", "symbol").iter_rows():
        assert weekdays_left(held, last[symbol]) > out
        assert held < last[symbol]
    opens = set(plan["open"])
    assert set(found["since"]) <= opens
    assert set(found["until"].drop_nulls()) <= opens
    assert (found["until"].shift(1) <= found["since"]).drop_nulls().all()


def test_one_loud_day_moves_nothing() -> None:
    plan, terms = PLANS["CMES"].head(60), chain(2010, 2012, 3, cash=True)
    days = plan.select("session", ts_known="close").join(terms.select("symbol", "expiration"), how="cross")
    front, far = terms["symbol"][0], terms["symbol"][6]
    value = pl.when(pl.col("symbol") == front).then(1000).otherwise(10)
    loud = (pl.col("session") == plan["session"][20]) & (pl.col("symbol") == far)
    rows = days.with_columns(value=pl.when(loud).then(9999).otherwise(value).cast(pl.Int64)).sort(
        "ts_known", "symbol"
    )
    known = check(rows.with_row_index("place").select(list(ACTIVITY.columns)), ACTIVITY)
    calm = rolls("XX.v.0", terms, plan, activity=known, asof="2010-12-31")
    assert calm["symbol"].to_list()[0] == front
    assert far not in calm["symbol"].to_list()
    led_astray = rolls("XX.v.0", terms, plan, activity=known, asof="2010-12-31", steady=1)
    assert led_astray["symbol"].to_list()[-1] == far  # and it would sit there for two years


def test_the_front_is_the_nearest_or_the_busiest() -> None:
    plan, terms = PLANS["CMES"], chain(2010, 2013, 3, cash=True)
    front, second = (days_held(rolls(f"XX.c.{n}", terms, plan, asof="2013-12-31"), plan) for n in (0, 1))
    both = front.join(second, on="session", suffix="_next")
    expiry = dict(terms.select("symbol", "expiration").iter_rows())
    order = sorted(expiry, key=expiry.__getitem__)
    assert all(
        order.index(b) == order.index(a) + 1 for a, b in both.select("symbol", "symbol_next").iter_rows()
    )
    assert both.height > 700


@pytest.mark.parametrize("words", ["ES", "ES.v", "ES.v.-1", "ES.z.0", ".v.0", "ES.v.0 ", "ES.FUT"])
def test_what_is_no_series_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match="a continuous future is written PRODUCT"):
        parse_series(words)


def test_profit_by_contract_is_the_sum_of_real_moves() -> None:
    plan = PLANS["CMES"].filter(pl.col("session") < date(2011, 1, 1))
    terms = chain(2010, 2011, 3, cash=True)
    level = {s: 100.0 + 3 * n for n, s in enumerate(terms["symbol"])}
    day = pl.int_range(pl.len()).over("symbol")
    rows = plan.select(ts_event="open", ts_known="close", ts_published="close").join(
        pl.DataFrame({"symbol": list(level), "base": list(level.values())}), how="cross"
    )
    rows = rows.sort("symbol", "ts_event").with_columns(p=pl.col("base") + day)
    bars = rows.with_columns(
        *(pl.col("p").alias(n) for n in ("open", "high", "low", "close")), volume=pl.lit(1, pl.UInt64)
    )
    bars = check(bars.select(list(BARS.columns)).sort(BARS.key), BARS)
    found = rolls("XX.c.0", terms, plan, asof="2011-01-01")
    mine = per_contract(bars, found)
    assert mine["ts_event"].is_unique().all()
    moves = mine.with_columns(pl.col("close").diff().over("symbol"))["close"].drop_nulls()
    assert moves.unique().to_list() == [1.0]  # a jump of 3 at each roll belongs to nobody
    assert back_adjusted(bars, found, asof="2011-01-01")["close"].diff().drop_nulls().unique().to_list() == [
        1.0
    ]


REAL = Path(os.environ.get("RESEARCHKIT_TEST_DATA", "/nonexistent")) / "dbn" / "samples"
FUTURES = [
    ("GLBX.MDP3", "ES", "ESH1", datetime(2021, 3, 19, 13, 30, tzinfo=UTC), True),
    ("IFEU.IMPACT", "BRN", "BRN FMJ0024!", datetime(2024, 2, 29, tzinfo=UTC), False),
    ("NDEX.IMPACT", "TFM", "TFM FMH0024!", datetime(2024, 2, 28, tzinfo=UTC), False),
]  # fmt: skip


def real(dataset: str, schema: str) -> pl.DataFrame:
    """A real file of the vendor's."""
    return read(REAL / dataset / f"test_data.{schema}.dbn.zst")


def test_real_definitions_have_terms() -> None:
    for dataset, root, symbol, ends, cash in FUTURES if REAL.is_dir() else ():
        terms = contract_terms(real(dataset, "definition"), root).row(0, named=True)
        assert (terms["symbol"], terms["expiration"], terms["cash"], terms["listed"]) == (
            symbol,
            ends,
            cash,
            True,
        )
        out = deadline(ends.date(), cash=terms["cash"], delivery=terms["delivery"])
        assert out <= ends.date()
        assert (out == ends.date()) == cash


def test_real_statistics_are_read() -> None:
    for dataset, *_ in FUTURES if REAL.is_dir() else ():
        rows = real(dataset, "statistics")
        assert marks.settlements_said(rows).is_empty()  # these small files hold none
        wrong = rows.with_columns(stat_type=pl.lit(marks.SETTLEMENT, pl.UInt16))
        with pytest.raises(SchemaError, match="name no date in ts_ref"):
            marks.settlements_said(wrong)
        days = rows["ts_event"].dt.date()
        plan = sessions("CMES", days.min() - timedelta(days=9), days.max() + timedelta(days=2))
        said = marks.settlements_said(wrong, of=plan)
        assert said.height == rows.height
        assert (said["ts_known"] >= rows["ts_event"].min()).all()


def test_real_minutes_become_sessions() -> None:
    if REAL.is_dir():
        rows = real("XNAS.ITCH", "ohlcv-1m")
        day = rows["ts_event"].dt.date()
        plan = sessions("XNYS", day.min() - timedelta(days=5), day.max() + timedelta(days=5))
        within, every = placed(rows, plan), occupancy(rows, plan)
        assert every["rows"].sum() == within.height
        bars = session_bars(rows, plan, asof=rows["ts_known"].max())
        assert bars.is_empty()  # their session was not over
        if within.height:
            assert (
                session_bars(rows, plan, asof=day.max() + timedelta(days=2))["volume"].sum()
                == within["volume"].sum()
            )


@pytest.mark.parametrize(
    ("unit", "said"), [("", ASSUMED), (None, ASSUMED), ("BU", "delivery"), ("IPNT", "cash")]
)
def test_delivery_without_a_unit_is_said_to_be_assumed(unit: str | None, said: str) -> None:
    at = datetime(2013, 6, 3, tzinfo=UTC)
    row = {
        "ts_known": at, "ts_published": at, "ordinal": 0, "symbol": "XXU3", "asset": "XX", "instrument_class": "F",
        "expiration": datetime(2013, 9, 20, 13, 30, tzinfo=UTC), "activation": None, "maturity_year": 2013,
        "maturity_month": 9, "unit_of_measure": unit, "security_update_action": "A",
    }  # fmt: skip
    times = dict.fromkeys(("ts_known", "ts_published", "expiration", "activation"), TERMS.columns["ts_known"])
    made = pl.DataFrame([row], schema_overrides=times | {"unit_of_measure": pl.String})
    terms = contract_terms(made, "XX")
    assert terms["settles"].to_list() == [said]
    assert contract_terms(made, "XX", settles="cash")["settles"].to_list() == ["cash"]
    plan = sessions("CMES", "2013-06-03", "2013-06-20")
    assert rolls("XX.c.0", terms, plan, asof="2013-06-20")["settles"].to_list() == [said]
