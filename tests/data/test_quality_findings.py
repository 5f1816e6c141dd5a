"""Quality looks and never touches; what it finds does not depend on row order or number type."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit import frames
from researchkit.data import quality
from researchkit.data.judging import most


def walk(seed: int = 0, days: int = 300, symbols: tuple[str, ...] = ("AAA", "BBB")) -> pl.DataFrame:
    """Make clean bars: a random walk on the cent, opens off the previous close, no weekends."""
    rng = np.random.default_rng(seed)
    start, parts = datetime(2010, 1, 4, tzinfo=UTC), []
    dates = [d for d in (start + timedelta(days=i) for i in range(days)) if d.weekday() < 5]
    when = pl.Series("ts_event", dates).cast(frames.INSTANT)
    for symbol in symbols:
        close = 10_000 + np.cumsum(rng.integers(-40, 41, len(dates)))
        begin = np.concatenate([[10_000], close[:-1]]) + rng.choice([-7, -3, 4, 9], len(dates))
        known = when.dt.offset_by("1d")
        parts.append(
            pl.DataFrame(
                {
                    "ts_event": when, "symbol": symbol, "ts_known": known, "ts_published": known,
                    "open": begin / 100, "high": np.maximum(begin, close) / 100 + 0.1,
                    "low": np.minimum(begin, close) / 100 - 0.1, "close": close / 100,
                    "volume": rng.integers(1, 9**9, len(dates)),
                }
            )
        )  # fmt: skip
    return frames.conform(pl.concat(parts), frames.BARS)


def test_clean_bars_have_no_findings():
    assert quality.findings(walk()).is_empty()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_row_order_and_number_type_do_not_matter(seed):
    bars = walk().with_columns(open=pl.col("close").shift(1, fill_value=100.0).over("symbol"))
    found = quality.findings(bars)
    assert set(found["check"]) >= {"stale_open"}
    shuffled = bars.sample(fraction=1.0, shuffle=True, seed=seed)
    assert quality.findings(shuffled).equals(found)
    exact = bars.with_columns(pl.col("open", "high", "low", "close").cast(frames.EXACT))
    assert quality.findings(exact).equals(found)


def test_a_stale_year_is_told_with_its_share():
    bars = walk(symbols=("AAA",))
    stale = bars.with_columns(
        pl.when(pl.col("ts_event").dt.day() < 10)
        .then(pl.col("close").shift(1))
        .otherwise("open")
        .alias("open")
    ).with_columns(pl.col("open").fill_null(pl.col("close")))
    row = quality.findings(stale).filter(pl.col("check") == "stale_open").row(0, named=True)
    assert (
        row["words"]
        == f"{row['share']:.0%} of the opens of 2010 equal the previous close: nobody trades there"
    )
    assert row["rows"] == quality.stale_opens(stale)["stale"].sum()


def test_the_first_bar_is_not_stale_and_symbols_do_not_mix():
    bars = walk(days=10).with_columns(
        open=pl.lit(100.0), close=pl.lit(100.0), high=pl.lit(100.0), low=pl.lit(100.0)
    )
    marked = quality.stale_opens(bars)
    assert marked.filter(pl.col("ts_event") == pl.col("ts_event").min())["stale"].to_list() == [False, False]
    assert marked["stale"].sum() == marked.height - 2


def test_the_input_is_left_alone():
    bars = walk()
    before = frames.logical_hash(bars, frames.BARS)
    quality.findings(bars), quality.stale_opens(bars), quality.what_it_would_do(bars)
    assert frames.logical_hash(bars, frames.BARS) == before


def test_a_long_gap_and_a_jump_are_notes():
    bars = walk(symbols=("AAA",))
    hole = bars.filter(
        ~pl.col("ts_event").is_between(datetime(2010, 3, 1, tzinfo=UTC), datetime(2010, 3, 5, tzinfo=UTC))
    )
    assert quality.findings(hole).select("check", "severity").rows() == [("long_gap", "note")]
    raised = pl.when(pl.col("ts_event") > datetime(2010, 5, 3, tzinfo=UTC)).then(2.0).otherwise(1.0)
    split = bars.with_columns(pl.col("open", "high", "low", "close") * raised)
    assert quality.findings(split).select("check", "rows").rows() == [("jump", 1)]


def test_the_reversal_is_the_formula():
    bars = walk(symbols=("AAA",))
    o, c = bars["open"].to_numpy(), bars["close"].to_numpy()
    side = -np.sign(np.diff(c))
    table = quality.what_it_would_do(bars)
    want = {
        "recorded open": (side[:-2] * (o[3:] / o[2:-1] - 1)).mean() * 252,
        "next close": (side[:-2] * (c[3:] / c[2:-1] - 1)).mean() * 252,
    }
    for fill, value in want.items():
        assert table.filter(pl.col("fill") == fill)["annual_return"][0] == pytest.approx(value, rel=1e-12)


def test_few_rows_do_not_break_it():
    for n in (1, 2, 3):
        bars = walk(days=n, symbols=("AAA",))
        assert quality.findings(bars).is_empty()
        assert quality.what_it_would_do(bars).height == 0
    assert quality.findings(walk().clear()).is_empty()


def test_the_sentence_of_a_sum_says_whose_it_is():
    bars = walk().with_columns(open=pl.col("close").shift(1, fill_value=100.0).over("symbol"))
    both, one = (quality.findings(b) for b in (bars, bars.filter(pl.col("symbol") == "AAA")))
    stale = pl.col("check") == "stale_open"
    assert both.filter(stale).height == 2
    assert most(both).filter(stale)["words"].item().startswith("the most in ")
    assert most(one).filter(stale)["words"].item() == one.filter(stale)["words"].item()
