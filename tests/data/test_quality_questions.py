"""Every fault is told by its own name, wherever the rows are cut; and what real files and prices confess."""

from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit import frames
from researchkit.data import quality
from researchkit.data.findings_page import page
from researchkit.data.judging import judged, monthly
from researchkit.data.openhours import Venue, open_hours
from researchkit.data.questions import Questions, prepared, questions
from researchkit.data.survey import counted, survey_file
from researchkit.data.tally import Tally, merged, tally
from researchkit.data.vendor import BORDER, arch_indices, split_at

REAL = Path(os.environ.get("RESEARCHKIT_TEST_DATA", "/nonexistent"))
START = datetime(2024, 3, 4, 15, 0, tzinfo=UTC)  # a Monday in New York, after the opening


def ticks(rows: int = 400, symbols: tuple[str, ...] = ("ESM4", "NQM4"), seed: int = 0) -> pl.DataFrame:
    """Clean quotes, one in about a second: a walk by the tick, a spread of one or two ticks, capture after the event."""
    rng, parts = np.random.default_rng(seed), []
    for symbol in symbols:
        at = np.cumsum(rng.integers(300_000_000, 1_700_000_000, rows)) + int(START.timestamp()) * 10**9
        bid = 20_000 + np.cumsum(rng.choice([-1, 0, 1], rows))
        made = {"ts_event": at, "symbol": symbol, "sequence": np.arange(rows), "ordinal": np.arange(rows)}
        made |= {
            "ts_recv": at + rng.integers(1_000, 90_000, rows),
            "price": bid / 4,
            "size": rng.integers(1, 9, rows),
        }
        made |= {"side": "A", "flags": 128, "bid_px": bid / 4, "ask_px": (bid + rng.integers(1, 3, rows)) / 4}
        parts.append(pl.DataFrame(made | {"bid_sz": 5, "ask_sz": 7}))
    instants = pl.concat(parts).with_columns(pl.col("ts_event", "ts_recv").cast(frames.INSTANT))
    known = pl.max_horizontal("ts_event", "ts_recv")
    return frames.conform(instants.with_columns(ts_known=known, ts_published=known), frames.QUOTES)


def asked_of(schema: str, rows: pl.DataFrame, calendar: str = "CMES") -> Questions:
    low, high = rows.select(
        a=pl.col("ts_event").min().to_physical(), b=pl.col("ts_event").max().to_physical()
    ).row(0)
    return questions(schema, open_hours(Venue(calendar), low, high))


def told(rows: pl.DataFrame, schema: str = "mbp-1") -> list[str]:
    """The checks that find something, of rows in the order given."""
    asked = asked_of(schema, rows)
    return judged(counted([rows], asked), asked)["check"].unique(maintain_order=True).to_list()


NTH = (pl.col("symbol") == "ESM4") & (pl.int_range(pl.len()).over("symbol") == 200)
LATER = (pl.col("symbol") == "ESM4") & (pl.int_range(pl.len()).over("symbol") >= 200)


def change(**columns: pl.Expr) -> pl.DataFrame:
    """The clean quotes with one row changed."""
    rows = ticks().sort("symbol", "ts_event")
    return rows.with_columns(
        pl.when(NTH).then(value).otherwise(pl.col(name)).alias(name) for name, value in columns.items()
    )


TIMES = ("ts_event", "ts_recv", "ts_known", "ts_published")


def shifted(by: str) -> pl.DataFrame:
    """The clean quotes with everything of one symbol from one row on moved in time."""
    rows = ticks().sort("symbol", "ts_event")
    return rows.with_columns(
        pl.when(LATER).then(pl.col(n).dt.offset_by(by)).otherwise(pl.col(n)).alias(n) for n in TIMES
    )


BID, ASK, EVENT = pl.col("bid_px"), pl.col("ask_px"), pl.col("ts_event")
PLANTED = {
    "crossed": lambda: change(bid_px=ASK, ask_px=BID),
    "locked": lambda: change(ask_px=BID),
    "one_sided": lambda: change(ask_px=pl.lit(None, pl.Float64)),
    "bad_receive_time": lambda: change(flags=pl.lit(136, pl.UInt8)),
    "maybe_bad_book": lambda: change(flags=pl.lit(132, pl.UInt8)),
    "snapshot": lambda: change(flags=pl.lit(160, pl.UInt8)),
    "clock_behind": lambda: change(ts_recv=EVENT - pl.duration(milliseconds=40)),
    "known_early": lambda: change(ts_known=EVENT - pl.duration(seconds=1)),
    "wide_spread": lambda: change(ask_px=ASK + 30, bid_px=BID - 30),
    "jump": lambda: change(bid_px=BID * 1.05, ask_px=ASK * 1.05),
    "silence": lambda: shifted("50m"),
}  # fmt: skip


def test_clean_quotes_have_no_findings() -> None:
    assert told(ticks()) == []


@pytest.mark.parametrize("check", PLANTED)
def test_a_fault_is_told_by_its_own_name(check: str) -> None:
    assert told(PLANTED[check]()) == [check]


def test_the_same_row_twice_is_told_however_it_is_numbered() -> None:
    rows = ticks().sort("symbol", "ts_event")
    again = rows.filter(NTH).with_columns(ordinal=pl.lit(9_999, pl.UInt64))
    assert told(pl.concat([rows, again]).sort("symbol", "ts_event", maintain_order=True)) == ["repeated_row"]


def test_rows_captured_in_another_order_are_told_in_a_file_and_in_a_table() -> None:
    rows = ticks().sort("symbol", "ts_event")
    place = pl.when(NTH).then(pl.col("ordinal") + 2.5).otherwise(pl.col("ordinal"))
    assert told(rows.sort("symbol", place)) == ["disorder"]  # as they lie in the file
    late = rows.with_columns(
        ts_recv=pl.when(NTH).then(pl.col("ts_recv") + pl.duration(seconds=5)).otherwise("ts_recv")
    )
    assert told(late) == ["disorder"]  # sorted by event, as a table hands them out


def test_a_weekend_is_no_silence_and_a_row_on_it_is_outside() -> None:
    friday = shifted("7d")  # from one Monday to the next, in open time: a week of silence
    assert set(told(friday)) == {"silence", "missing"}
    sunday = ticks().with_columns(pl.col(TIMES).dt.offset_by("-2d"))
    assert "outside" in told(sunday)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 800), max_size=6), st.randoms(use_true_random=False))
def test_wherever_it_is_cut_and_however_it_is_added_the_findings_are_the_same(cuts, chance) -> None:
    rows = pl.concat([PLANTED["crossed"](), PLANTED["silence"]().with_columns(symbol=pl.lit("CLM4"))]).sort(
        frames.QUOTES.key
    )
    rows = pl.concat([rows[:300], rows[299:]])  # one row twice
    asked = asked_of("mbp-1", rows)
    edges = [0, *sorted(cuts), rows.height]
    parts = [tally(prepared(rows[a:b], asked), asked.plan) for a, b in itertools.pairwise(edges)]
    while len(parts) > 1:
        n = chance.randrange(len(parts) - 1)
        parts[n : n + 2] = [merged(parts[n], parts[n + 1], asked.plan)]
    whole = counted([rows], asked)
    assert judged(parts[0], asked).equals(judged(whole, asked))
    assert monthly(parts[0], asked).equals(monthly(whole, asked))
    assert (parts[0].rows, parts[0].symbols) == (rows.height, 3)


def kept(seen: Tally) -> int:
    return sum(f.height for f in (seen.hits, seen.cover, seen.spread, seen.first, seen.last))


def test_what_is_kept_does_not_grow_with_the_rows() -> None:
    rows = ticks(2_000)
    asked = asked_of("mbp-1", rows)
    days = [rows.with_columns(pl.col(TIMES).dt.offset_by(f"{n}h")) for n in range(20)]
    few, many = (counted(days[:n], asked) for n in (2, 20))
    assert many.rows == 10 * few.rows
    assert kept(many) < 1.25 * kept(few)


def test_a_quantile_is_right_to_ten_per_cent_in_any_world_and_to_one_where_there_are_many() -> None:
    rng = np.random.default_rng(3)
    from researchkit.data.tally import Measure, Plan, quantile

    plan = Plan((), (Measure("x", pl.col("x")),))
    for values in (
        rng.exponential(1e-6, 5_000),
        rng.standard_cauchy(5_000),
        rng.integers(-3, 4, 5_000).astype(float),
    ):
        rows = pl.DataFrame({"x": values}).with_columns(
            symbol=pl.lit("A"), ts_event=pl.lit(START).cast(frames.INSTANT)
        )
        for q in (0.01, 0.5, 0.99):
            got = quantile(tally(rows, plan).spread, "x", q)["value"][0]
            want = float(np.quantile(values, q, method="inverted_cdf"))
            assert got == pytest.approx(want, rel=0.1, abs=1e-12)
    many = pl.DataFrame({"x": rng.exponential(3.0, 100_000)})
    rows = many.with_columns(symbol=pl.lit("A"), ts_event=pl.lit(START).cast(frames.INSTANT))
    got = quantile(tally(rows, plan).spread, "x", 0.99)["value"][0]
    assert got == pytest.approx(float(np.quantile(many["x"], 0.99)), rel=0.01)


def test_nothing_from_outside_becomes_part_of_a_page(tmp_path) -> None:
    bars, _ = split_at(arch_indices(), BORDER)
    hostile = "<script>alert(1)</script>"
    bars = frames.conform(
        bars.filter(pl.col("symbol") == "SPX").with_columns(symbol=pl.lit(hostile)), frames.BARS
    )
    from researchkit.data.encode import encode_bars

    sent = tmp_path / "x<b>.ohlcv-1d.dbn.zst"
    sent.write_bytes(encode_bars(bars, dataset="DEMO"))
    html = page(survey_file(sent))
    assert "<script" not in html
    assert "x<b>" not in html
    assert "default-src 'none'" in html


# --- what is true of the real data --------------------------------------------------------------------------


def test_what_the_indices_confess_up_to_2013() -> None:
    bars, _ = split_at(arch_indices(), BORDER)
    low, high = bars.select(
        a=pl.col("ts_event").min().to_physical(), b=pl.col("ts_event").max().to_physical()
    ).row(0)
    found = quality.findings(bars, hours=open_hours(Venue("XNYS"), low, high))
    stale = found.filter(pl.col("check") == "stale_open")
    assert stale["symbol"].unique().to_list() == ["SPX"]
    shares = dict(zip(stale["first"].dt.year(), stale["share"].round(2), strict=True))
    assert {y: shares[y] for y in (1999, 2003, 2006, 2007, 2013)} == {
        1999: 0.96,
        2003: 0.98,
        2006: 0.43,
        2007: 0.16,
        2013: 0.26,
    }
    assert set(shares) == {*range(1999, 2008), 2011, 2012, 2013}
    rest = found.filter(pl.col("check") != "stale_open").select("check", "symbol", "rows").rows()
    assert rest == [
        ("jump", "COMP", 1),
        ("jump", "SPX", 2),
    ]  # no day is missing and none too many, by the calendar


needs_ticks = pytest.mark.skipif(not (REAL / "ticks").is_dir(), reason="RESEARCHKIT_TEST_DATA is not set")


def found_in(name: str) -> pl.DataFrame:
    return survey_file(REAL / "ticks" / f"binance_2024-08-08.{name}.v3.dbn.zst").findings


@needs_ticks
def test_what_the_real_trades_confess() -> None:
    found = found_in("trades")
    clocks = found.filter(pl.col("check") == "clock_behind")
    rows = {
        "CM_BTCUSD_PERP": 5235,
        "CM_ETHUSD_PERP": 3595,
        "SPOT_BTCUSDT": 19904,
        "SPOT_ETHUSDT": 14515,
        "USDM_BTCUSDT": 21313,
    }
    assert dict(clocks.select("symbol", "rows").rows()) == rows | {
        "USDM_ETHUSDT": 14076
    }  # every row there is
    assert clocks["share"].to_list() == [1.0] * 6
    assert clocks["worst"].min() > 1.268
    assert clocks["worst"].max() < 1.277
    assert all("by 1.2" in words for words in clocks["words"])
    rest = found.filter(pl.col("check") != "clock_behind").select("check", "symbol", "rows").rows()
    assert rest == [("jump", "SPOT_ETHUSDT", 1)]


@needs_ticks
def test_what_the_real_quotes_confess() -> None:
    found = found_in("mbp-1").select("check", "symbol", "rows", "share")
    behind = {"CM_BTCUSD_PERP": 48355, "CM_ETHUSD_PERP": 35563, "USDM_BTCUSDT": 66089, "USDM_ETHUSDT": 53992}
    assert found.rows() == [
        *(("clock_behind", symbol, rows, 1.0) for symbol, rows in behind.items()),
        ("one_clock", "SPOT_BTCUSDT", 73174, 1.0), ("one_clock", "SPOT_ETHUSDT", 58758, 1.0),
        ("wide_spread", "SPOT_BTCUSDT", 1, 1 / 73174), ("wide_spread", "SPOT_ETHUSDT", 1, 1 / 58758),
    ]  # fmt: skip
