"""Canaries for the look-ahead replay: what must be caught, what must not be, on seeded bars."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from researchkit import frames
from researchkit.errors import LookAheadError, SchemaError
from researchkit.features.library import trend_core
from researchkit.features.replay import KINDS, replay
from researchkit.features.view import FeatureView, compute
from researchkit.labels.barriers import triple_barrier

CLOSE = pl.col("close")


def make_bars(days: int = 420, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    start = [datetime(2003, 1, 1, tzinfo=UTC) + timedelta(days=i) for i in range(days)]
    parts = []
    for symbol in ("AAA", "BBB", "CCC"):
        c = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, days)))
        prices = {"open": c, "high": c * 1.01, "low": c * 0.99, "close": c, "volume": 1000}
        parts.append(pl.DataFrame({"ts_event": start, "symbol": symbol, **prices}))
    known = pl.col("ts_event") + timedelta(days=1)
    return frames.conform(pl.concat(parts).with_columns(ts_known=known, ts_published=known), frames.BARS)


def per_symbol(bars: pl.DataFrame, **columns: pl.Expr) -> pl.DataFrame:
    values = [e.over("symbol", order_by="ts_event").alias(n) for n, e in columns.items()]
    return bars.select("ts_known", "symbol", *values).sort("ts_known", "symbol")


def peek(bars):
    return per_symbol(bars, target=(CLOSE.shift(-1) > CLOSE).cast(pl.Float64))


def sly_peek(bars):
    return per_symbol(bars, target=(CLOSE.shift(-1) > CLOSE).cast(pl.Float64).fill_null(0.0))


def scaler_on_everything(bars):
    return per_symbol(bars, z=(CLOSE - CLOSE.mean()) / CLOSE.std())


def smoothed_state(bars):
    return per_symbol(bars, state=CLOSE.ewm_mean(span=20).reverse().ewm_mean(span=20).reverse())


def backward_fill(bars):
    return per_symbol(
        bars, level=pl.when(CLOSE.rolling_max(5) == CLOSE).then(CLOSE).fill_null(strategy="backward")
    )


def centred_mean(bars):
    return per_symbol(bars, mean=CLOSE.rolling_mean(5, center=True))


def rank_over_sample(bars):
    return per_symbol(bars, rank=CLOSE.rank().cast(pl.Float64) / CLOSE.count())


def unsorted_group_by(bars):
    means = bars.group_by("ts_known").agg(pl.mean("close"))["close"]
    return bars.filter(pl.col("symbol") == "AAA").select("ts_known", "symbol").with_columns(market=means)


def unseeded_noise(bars):
    noise = np.random.default_rng().normal(size=bars.height)
    return bars.select("ts_known", "symbol", x=pl.Series(noise)).sort("ts_known", "symbol")


def future_of_the_other(bars):
    other = bars.filter(pl.col("symbol") == "BBB").select("ts_known", lead=CLOSE.shift(-1))
    return bars.select("ts_known", "symbol").join(other, on="ts_known", how="left").sort("ts_known", "symbol")


def dropped_when_it_falls(bars):
    """Survivorship made by hand: today's rows exist only if the symbol rises tomorrow."""
    kept = bars.filter((CLOSE.shift(-1) >= CLOSE).over("symbol", order_by="ts_event"))
    return kept.select("ts_known", "symbol", close="close").sort("ts_known", "symbol")


LEAKS = (
    peek, sly_peek, scaler_on_everything, smoothed_state, backward_fill, centred_mean, rank_over_sample,
    unsorted_group_by, unseeded_noise, future_of_the_other, dropped_when_it_falls,
)  # fmt: skip


@pytest.mark.parametrize("leak", LEAKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_leak_is_caught(leak, seed):
    with pytest.raises(LookAheadError, match=rf"^{leak.__name__}: (column '|the row at )") as caught:
        replay(leak, make_bars(seed=seed), seed=seed)
    assert any(kind in str(caught.value) for kind in KINDS)


def test_a_peek_names_the_first_leaking_value():
    bars = make_bars()
    cut = bars["ts_known"][900]
    with pytest.raises(LookAheadError) as caught:
        replay(peek, bars, cuts=[cut])
    row = bars.filter((pl.col("ts_known") == cut) & (pl.col("symbol") == "AAA"))
    tomorrow = bars.filter((pl.col("ts_event") == cut) & (pl.col("symbol") == "AAA"))
    up = float(tomorrow["close"][0] > row["close"][0])
    assert str(caught.value) == (
        f"peek: column 'target' at {cut:%Y-%m-%d} AAA: {up} with the future, null without it "
        f"(cut {cut:%Y-%m-%d}, truncation)"
    )


def expanding_scaler(bars):
    n = pl.int_range(1, pl.len() + 1)
    return per_symbol(bars, z=CLOSE / (CLOSE.cum_sum() / n) - 1)


def sorted_group_by(bars):
    """Group in key order and sum in a fixed order: the mean of an ordered list, not a partitioned one."""
    groups = bars.sort("ts_known", "symbol").group_by("ts_known", maintain_order=True)
    means = groups.agg(pl.col("close")).select("ts_known", market=pl.col("close").list.mean())
    return bars.select("ts_known", "symbol").join(means, on="ts_known", how="left").sort("ts_known", "symbol")


def filtered_state(bars):
    return per_symbol(bars, state=CLOSE.ewm_mean(span=20))


def labels(bars):
    return triple_barrier(
        bars, bars.select("ts_known", "symbol").sort("ts_known", "symbol"), up=2, down=1.5, horizon=8
    )


@pytest.mark.parametrize(
    "clean", [expanding_scaler, sorted_group_by, filtered_state, labels], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_clean_is_accused(clean, seed):
    report = replay(clean, make_bars(seed=seed), seed=seed, cuts=4)
    assert report.cells > 0
    assert len(report.cuts) == 4


def test_the_library_is_clean_to_the_bit():
    report = replay(lambda b: compute(trend_core, b), make_bars(), name="trend_core", cuts=6)
    assert report.rows == 3 * 420
    assert "survivorship" in repr(report)


def test_labels_known_too_early_are_caught():
    def early(bars):
        return labels(bars).with_columns(ts_end=pl.col("ts_known"))

    with pytest.raises(LookAheadError, match="early: the row at"):
        replay(early, make_bars())


def test_a_tolerance_lets_rounding_through_and_nothing_else():
    def dusty(bars):
        return per_symbol(bars, x=CLOSE + CLOSE.mean() * 1e-13)

    with pytest.raises(LookAheadError):
        replay(dusty, make_bars())
    assert replay(dusty, make_bars(), tolerance=1e-9).cells
    with pytest.raises(LookAheadError):
        replay(peek, make_bars(), tolerance=1e-9)


def test_output_out_of_order_is_refused():
    with pytest.raises(SchemaError, match="must be sorted by"):
        replay(lambda b: b.select("ts_known", "symbol", "close").reverse(), make_bars())


def test_replay_does_not_change_the_bars_and_repeats_itself():
    bars = make_bars()
    before = frames.logical_hash(bars, frames.BARS)
    first, second = (replay(filtered_state, bars, seed=5) for _ in range(2))
    assert first == second
    assert frames.logical_hash(bars, frames.BARS) == before


def test_a_view_that_peeks_is_caught_through_compute():
    view = FeatureView("v", {"past": CLOSE / CLOSE.shift(1), "next": CLOSE.shift(-1) / CLOSE}, lookback=1)
    with pytest.raises(LookAheadError, match="column 'next'"):
        replay(lambda b: compute(view, b), make_bars())
