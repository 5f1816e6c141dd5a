"""No answer about an instrument changes when the future does: the history is cut anywhere, and what follows is spoiled."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from researchkit.data import actions, marks
from researchkit.data.activity import reported, traded
from researchkit.data.continuous import rolls
from researchkit.data.contracts import TERMS, contract_terms
from researchkit.data.schemas import DEFINITIONS, STATISTICS
from researchkit.data.sessions import occupancy, placed, session_bars, sessions, streamed_bars
from researchkit.data.stitched import back_adjusted, gaps, per_contract
from researchkit.frames import BARS, EXACT, INSTANT, Schema

START, END = date(2013, 5, 6), date(2013, 10, 4)
PLAN = sessions("CMES", START, END)
SHARES = sessions("XNYS", "2013-11-20", "2013-12-03")
EXPIRY = {"XXM3": "2013-06-21T13:30", "XXU3": "2013-09-20T13:30", "XXZ3": "2013-12-20T14:30"}
Frames = dict[str, pl.DataFrame]


def conformed(rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Every column of a schema, null where nothing is given, prices exact."""
    kinds = {n: EXACT if isinstance(k, tuple) else k for n, k in schema.columns.items()}
    given = [(pl.col(n) if n in rows.columns else pl.lit(None)).cast(k).alias(n) for n, k in kinds.items()]
    return rows.select(given).sort(schema.key)


def told(at: list[datetime], **columns: Any) -> pl.DataFrame:
    """Rows that were known when they happened."""
    frame = pl.DataFrame({"ts_event": at, **columns}).with_columns(pl.col("ts_event").cast(INSTANT))
    same = {n: pl.col("ts_event") for n in ("ts_recv", "ts_known", "ts_published") if n not in columns}
    return frame.with_columns(**same).with_row_index("ordinal").with_columns(sequence=pl.lit(0))


def definitions(rng: np.random.Generator) -> pl.DataFrame:
    """Three contracts, one of whose expiries is moved and moved back."""
    rows = []
    for n, (symbol, ends) in enumerate(EXPIRY.items()):
        for day in (date(2013, 5, 1), date(2013, 6, 3 + n), date(2013, 8, 1)):
            moved = timedelta(days=int(rng.integers(0, 2)))
            rows.append(
                (
                    datetime(day.year, day.month, day.day, tzinfo=UTC),
                    symbol,
                    datetime.fromisoformat(f"{ends}+00:00") - moved,
                )
            )
    frame = told([r[0] for r in rows], symbol=[r[1] for r in rows], expiration=[r[2] for r in rows])
    month = pl.col("expiration").dt.month()
    fixed = {"asset": pl.lit("XX"), "instrument_class": pl.lit("F"), "unit_of_measure": pl.lit("IPNT")}
    return conformed(
        frame.with_columns(**fixed, maturity_year=pl.lit(2013), maturity_month=month), DEFINITIONS
    )


def statistics(rng: np.random.Generator) -> pl.DataFrame:
    """Settlements, revised and withdrawn, volumes and open interest, each published after its session."""
    rows = []
    for day, close in PLAN.select("session", "close").iter_rows():
        ref = datetime(day.year, day.month, day.day, tzinfo=UTC)
        for symbol in EXPIRY:
            for kind in (marks.SETTLEMENT, marks.VOLUME, marks.OPEN_INTEREST):
                for late in range(int(rng.integers(1, 3))):
                    at = close + timedelta(hours=float(rng.uniform(0, 5)) + 20 * late)
                    rows.append(
                        (at, symbol, ref, kind, int(rng.integers(1, 10**6)), 2 if rng.random() < 0.05 else 1)
                    )
    names = ("symbol", "ts_ref", "stat_type", "quantity", "update_action")
    columns = {n: [r[i + 1] for r in rows] for i, n in enumerate(names)}
    price = [1600 + (r[4] % 400) / 4 for r in rows]
    flags = {"stat_flags": pl.lit(1)}
    return conformed(told([r[0] for r in rows], price=price, **columns).with_columns(**flags), STATISTICS)


def daily(rng: np.random.Generator) -> pl.DataFrame:
    """A bar of each UTC day and contract; one in twenty is published again later, corrected."""
    rows = []
    for day in PLAN["session"]:
        for symbol, ends in EXPIRY.items():
            at = datetime(day.year, day.month, day.day, tzinfo=UTC)
            if at < datetime.fromisoformat(f"{ends}+00:00"):
                known = at + timedelta(days=1)
                late = known + timedelta(days=3) if rng.random() < 0.05 else known
                rows.append(
                    (at, symbol, known, late, float(rng.uniform(90, 110)), int(rng.integers(1, 1000)))
                )
    names = ("symbol", "ts_known", "ts_published", "close", "volume")
    frame = told([r[0] for r in rows], **{n: [r[i + 1] for r in rows] for i, n in enumerate(names)})
    return conformed(frame.with_columns(pl.col("close").alias(n) for n in ("open", "high", "low")), BARS)


def minutes(rng: np.random.Generator) -> pl.DataFrame:
    """Bars of five minutes around the sessions of a week with a half day."""
    at = [o + timedelta(minutes=5 * k) for o in SHARES["open"] for k in range(-3, 85)]
    kept = [t for t in at if rng.random() < 0.9]
    price = rng.uniform(90, 110, len(kept))
    over = [t + timedelta(minutes=5) for t in kept]
    frame = told(kept, symbol=["AAA"] * len(kept), ts_known=over, ts_published=over, volume=[3] * len(kept))
    return conformed(frame.with_columns(pl.Series(n, price) for n in ("open", "high", "low", "close")), BARS)


def corporate() -> pl.DataFrame:
    """A split, dividends and a rename of the contracts' namesakes."""
    lines = ["symbol,kind,ex,ratio,amount,currency,announced,successor"]
    lines += ["XXM3,split,2013-05-20,2,,,2013-05-10,", "XXU3,dividend,2013-07-01,,1.25,USD,2013-07-20,"]
    lines += ["XXU3,dividend,2013-08-01,,0.5,USD,2013-06-20,", "XXM3,rename,2013-06-21,,,,,XXN3"]
    return actions.read_actions("\n".join(lines).encode(), name="a.csv", source="ACME")


WORLD: Frames = {}
for seed, make in enumerate((definitions, statistics, daily, minutes)):
    WORLD[make.__name__] = make(np.random.default_rng(seed))
WORLD["actions"] = corporate()


def known_by(frame: pl.DataFrame, cut: datetime) -> pl.Expr:
    """What somebody could know at an instant."""
    then = pl.lit(cut).cast(INSTANT)
    return (pl.col("ts_known") <= then) & (pl.col("ts_published") <= then)


def without_future(cut: datetime) -> Frames:
    """The world as far as it was known."""
    return {name: frame.filter(known_by(frame, cut)) for name, frame in WORLD.items()}


def other_future(cut: datetime) -> Frames:
    """The same world up to an instant, and another one after it."""
    made = {}
    for name, frame in WORLD.items():
        past, future = frame.filter(known_by(frame, cut)), frame.filter(~known_by(frame, cut))
        numbers = [n for n, k in frame.schema.items() if k == EXACT]
        counts = [n for n in ("volume", "quantity") if n in frame.columns]
        future = future.with_columns(
            *(pl.col(n) * 2 for n in numbers), *((pl.col(n) * 7 % 1000).cast(frame.schema[n]) for n in counts)
        )
        made[name] = pl.concat([past, future.with_columns(pl.col(n).cast(EXACT) for n in numbers)]).sort(
            "ts_event", maintain_order=True
        )
    return made


def table(w: Frames, series: str, asof: Any) -> pl.DataFrame:
    """Rolls of the world."""
    terms = (
        contract_terms(w["definitions"], "XX")
        if w["definitions"].height
        else pl.DataFrame(schema=dict(TERMS.columns))
    )
    active = {
        "v": lambda: traded(w["daily"], PLAN),
        "n": lambda: reported(w["statistics"], "n"),
        "c": lambda: None,
    }
    return rolls(series, terms, PLAN, activity=active[series[3]](), asof=asof)


ASKED: dict[str, Callable[[Frames, Any], pl.DataFrame]] = {
    "session_bars": lambda w, t: session_bars(w["minutes"], SHARES, asof=t),
    "streamed_bars": lambda w, t: streamed_bars(w["minutes"].iter_slices(40), SHARES, asof=t),
    "settlements": lambda w, t: marks.settlements(marks.settlements_said(w["statistics"], bits=marks.CME), asof=t),
    "marked": lambda w, t: marks.marked(
        session_bars(w["minutes"].with_columns(symbol=pl.lit("XXZ3")), SHARES, asof=t),
        marks.settlements_said(w["statistics"]), SHARES, asof=t),
    "rolls_c": lambda w, t: table(w, "XX.c.0", t),
    "rolls_v": lambda w, t: table(w, "XX.v.0", t),
    "rolls_n": lambda w, t: table(w, "XX.n.0", t),
    "rolls_second": lambda w, t: table(w, "XX.v.1", t),
    "per_contract": lambda w, t: per_contract(w["daily"].filter(known_by(w["daily"], t)), table(w, "XX.v.0", t)),
    "back_adjusted": lambda w, t: back_adjusted(w["daily"], table(w, "XX.v.0", t), asof=t, how="ratio"),
    "in_force": lambda w, t: actions.in_force(w["actions"], t),
    "factors": lambda w, t: actions.factors(w["actions"], w["daily"], asof=t),
    "adjusted": lambda w, t: actions.adjusted(w["daily"], w["actions"], asof=t),
}  # fmt: skip
CUTS = [
    datetime(2013, 6, 12, 9, 17, tzinfo=UTC),
    datetime(2013, 7, 20, tzinfo=UTC),
    datetime(2013, 9, 17, 22, tzinfo=UTC),
]
LATE = [datetime(2013, 11, 22, 21, tzinfo=UTC), datetime(2013, 11, 29, 17, 59, 59, tzinfo=UTC)]


@pytest.mark.parametrize("name", ASKED)
def test_an_answer_does_not_know_the_future(name: str) -> None:
    seen = 0
    for cut in LATE if name in ("session_bars", "streamed_bars", "marked") else CUTS:
        full = ASKED[name](WORLD, cut)
        assert full.equals(ASKED[name](without_future(cut), cut)), (
            f"{name} changes when the history ends at {cut}"
        )
        assert full.equals(ASKED[name](other_future(cut), cut)), f"{name} changes with what comes after {cut}"
        seen += full.height
    assert seen, "the world says nothing about it"


GROWING: dict[str, Callable[[Frames], pl.DataFrame]] = {
    "contract_terms": lambda w: contract_terms(w["definitions"], "XX"),
    "settlements_said": lambda w: marks.settlements_said(w["statistics"]),
    "standing": lambda w: marks.standing(marks.settlements_said(w["statistics"])),
    "dated": lambda w: marks.dated(w["statistics"]),
    "reported": lambda w: reported(w["statistics"], "v").drop("place"),
    "traded": lambda w: traded(w["daily"], PLAN).drop("place"),
    "placed": lambda w: placed(w["minutes"], SHARES),
}


@pytest.mark.parametrize("name", GROWING)
def test_a_list_of_what_was_said_only_grows(name: str) -> None:
    every = GROWING[name](WORLD)
    for cut in LATE if name == "placed" else CUTS:
        early = every.filter(pl.col("ts_known") <= pl.lit(cut).cast(INSTANT))
        assert early.height
        assert early.equals(GROWING[name](without_future(cut)))


@pytest.mark.parametrize("series", ["XX.c.0", "XX.v.0", "XX.n.0", "XX.c.1"])
def test_a_table_of_rolls_only_grows(series: str) -> None:
    every = table(WORLD, series, CUTS[-1])
    for open_ in PLAN["open"].gather_every(9):
        if open_ > CUTS[-1]:
            break
        early = table(WORLD, series, open_)
        assert early.drop("until").equals(every.filter(pl.col("ts_known") <= open_).drop("until"))
        assert (
            early["until"].drop_nulls().to_list()
            == every["until"].drop_nulls().head(early["until"].count()).to_list()
        )


def test_a_gap_is_taken_from_prices_before_the_roll() -> None:
    found = table(WORLD, "XX.v.0", CUTS[-1])
    assert found.height > 1
    for since in gaps(WORLD["daily"], found)["since"]:
        late = other_future(since)["daily"]
        assert gaps(late, found).filter(since=since).equals(gaps(WORLD["daily"], found).filter(since=since))


def test_occupancy_counts_what_session_bars_use() -> None:
    bars = session_bars(WORLD["minutes"], SHARES, asof="2013-12-31")
    counted = occupancy(WORLD["minutes"], SHARES)
    assert counted["rows"].sum() * 3 == bars["volume"].sum()
    assert counted.filter(pl.col("half")).height == 1


LEAKS: dict[str, Callable[[Frames, Any], pl.DataFrame]] = {
    "a settlement by the day of which it speaks": lambda w, t: w["statistics"].filter(pl.col("ts_ref") <= t),
    "a bar by its beginning": lambda w, t: w["daily"].filter(pl.col("ts_event") <= t),
    "a correction before it came": lambda w, t: w["daily"].filter(pl.col("ts_known") <= t),
    "adjusted for all that is on record": lambda w, t: actions.adjusted(w["daily"], w["actions"], asof="2014-01-01").filter(
        pl.col("ts_known") <= t),
    "a dividend by its ex day": lambda w, t: w["actions"].filter(pl.col("ts_event") <= t),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
def test_the_instrument_replay_sees_a_leak(name: str) -> None:
    cuts = [
        datetime(2013, 7, 10, 3, tzinfo=UTC),
        *(c + timedelta(hours=h) for c in CUTS for h in range(0, 96, 12)),
    ]
    assert any(
        not LEAKS[name](WORLD, cut).equals(LEAKS[name](world(cut), cut))
        for cut in cuts
        for world in (without_future, other_future)
    )
