"""Features of many symbols in one pass, beside a loop over the symbols."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from researchkit.settings import environment

os.environ.update(environment())

import numpy as np
import polars as pl
from measuring import case

from researchkit import frames
from researchkit.features.library import trend_core
from researchkit.features.view import compute


def market(symbols: int, sessions: int = 2_500, seed: int = 0) -> pl.DataFrame:
    """Independent random walks of daily bars."""
    rng = np.random.default_rng(seed)
    start = datetime(2000, 1, 3, tzinfo=UTC)
    days = pl.datetime_range(start, start + timedelta(days=sessions - 1), "1d", time_unit="ns", eager=True)
    parts = []
    for number in range(symbols):
        close = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal(sessions)))
        prices = {"open": close, "high": close * 1.005, "low": close * 0.995, "close": close}
        parts.append(pl.DataFrame({"ts_event": days, "symbol": f"S{number:04}", **prices, "volume": 1}))
    known = pl.col("ts_event").dt.offset_by("1d")
    bars = pl.concat(parts).with_columns(ts_known=known, ts_published=known)
    return frames.conform(bars, frames.BARS)


def split(bars: pl.DataFrame) -> pl.DataFrame:
    """The same expressions, symbol by symbol."""
    kept = [
        part.select("ts_known", "symbol", **trend_core.features)
        for part in bars.partition_by("symbol", maintain_order=True)
    ]
    return pl.concat(kept).sort("ts_known", "symbol")


def main() -> None:
    """The features of the demo, checked and sorted."""
    for symbols in (2, 20, 100):
        bars = market(symbols)
        case(
            f"{len(trend_core.features)} features, checked and masked",
            ours=lambda bars=bars: compute(trend_core, bars),
            peer=lambda bars=bars: split(bars),
            versus="the same expressions in a loop over symbols, unchecked",
            size=f"{symbols} symbols × 2,500 sessions",
            rounds=5,
        )


if __name__ == "__main__":
    main()
