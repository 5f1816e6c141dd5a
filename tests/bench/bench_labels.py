"""Labels of a hundred thousand decisions over a million bars, beside a plain loop over the decisions."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from researchkit.settings import environment

os.environ.update(environment())

import numpy as np
import polars as pl
from measuring import case

from researchkit import frames
from researchkit.labels.barriers import outcomes
from researchkit.labels.trendscan import trend_scans

UP, DOWN, HORIZON = 3.0, 3.0, 30
SHORTEST, LONGEST = 5, 20


def market(rows: int, symbols: int = 10, seed: int = 0) -> pl.DataFrame:
    """Minute bars of independent random walks."""
    rng, each = np.random.default_rng(seed), rows // symbols
    start = datetime(2010, 1, 4, tzinfo=UTC)
    end = start + timedelta(minutes=each - 1)
    minutes = pl.datetime_range(start, end, "1m", time_unit="ns", eager=True)
    parts = []
    for number in range(symbols):
        close = 100 * np.exp(np.cumsum(0.001 * rng.standard_normal(each)))
        prices = {"open": close, "high": close * 1.0005, "low": close * 0.9995, "close": close}
        parts.append(pl.DataFrame({"ts_event": minutes, "symbol": f"S{number:04}", **prices, "volume": 1}))
    known = pl.col("ts_event").dt.offset_by("1m")
    return frames.conform(pl.concat(parts).with_columns(ts_known=known, ts_published=known), frames.BARS)


def decided(bars: pl.DataFrame, count: int, seed: int = 1) -> pl.DataFrame:
    """Decisions spread over the bars, with a volatility."""
    picked = np.sort(np.random.default_rng(seed).choice(bars.height, count, replace=False))
    rows = bars[picked].select("ts_known", "symbol", sigma=pl.lit(0.001))
    return rows.sort("ts_known", "symbol")


def columns(bars: pl.DataFrame) -> dict[str, dict[str, np.ndarray]]:
    """Bars as arrays by symbol, made once and not counted."""
    parts = bars.partition_by("symbol", as_dict=True)
    return {
        str(symbol): {
            n: p[n].to_physical().to_numpy() for n in ("ts_event", "ts_known", "high", "low", "close")
        }
        for (symbol,), p in parts.items()
    }


def barrier_loop(
    by_symbol: dict[str, dict[str, np.ndarray]], decisions: pl.DataFrame
) -> list[tuple[int, float, int]]:
    """Label, return and end of every decision, one after the other, with numpy on each path."""
    found = []
    for when, symbol, sigma in zip(
        decisions["ts_known"].to_physical().to_list(), decisions["symbol"].to_list(), decisions["sigma"].to_list(),
        strict=True,
    ):  # fmt: skip
        bars = by_symbol[symbol]
        entry = int(np.searchsorted(bars["ts_event"], when))
        if entry >= bars["close"].size:
            continue
        price = bars["close"][entry]
        high, low = (bars[n][entry + 1 : entry + 1 + HORIZON] for n in ("high", "low"))
        up, down = high >= price * (1 + UP * sigma), low <= price * (1 - DOWN * sigma)
        touched = up | down
        if touched.any():
            at = int(touched.argmax())
            label = int(up[at] and not down[at])
        elif high.size == HORIZON:
            at, label = HORIZON - 1, 0
        else:
            continue
        exit_ = entry + 1 + at
        found.append((label, bars["close"][exit_] / price - 1, int(bars["ts_known"][exit_])))
    return found


def scan_loop(
    by_symbol: dict[str, dict[str, np.ndarray]], decisions: pl.DataFrame
) -> list[tuple[float, int]]:
    """t-value and horizon of every decision, all horizons of one decision at once with numpy."""
    found = []
    steps = np.arange(LONGEST + 1)
    m = steps[SHORTEST:] + 1.0
    spread = m * (m * m - 1) / 12
    for when, symbol in zip(
        decisions["ts_known"].to_physical().to_list(), decisions["symbol"].to_list(), strict=True
    ):
        bars = by_symbol[symbol]
        entry = int(np.searchsorted(bars["ts_event"], when))
        path = bars["close"][entry : entry + LONGEST + 1]
        if path.size <= LONGEST:
            continue
        x = path - path[0]
        total, squares, products = (np.cumsum(v)[SHORTEST:] for v in (x, x * x, steps * x))
        variation, covered = squares - total * total / m, products - total * steps[SHORTEST:] / 2
        slope = covered / spread
        t = slope / np.sqrt((variation - slope * covered) / (m - 2) / spread)
        best = int(np.abs(t).argmax())
        found.append((float(t[best]), SHORTEST + best))
    return found


def main() -> None:
    """Both kinds of label: checked, weighed by uniqueness, as frames."""
    for rows, count in ((10_000, 1_000), (1_000_000, 100_000)):
        bars = market(rows)
        decisions, arrays = decided(bars, count), columns(bars)
        size = f"{rows:,} bars, {count:,} decisions"
        rounds = 5 if rows < 100_000 else 3
        case(
            f"triple barrier over {HORIZON} bars, checked and weighed",
            ours=lambda b=bars, d=decisions: outcomes(
                b, d, up=UP, down=DOWN, horizon=HORIZON, vol="sigma", path="range"
            ),
            peer=lambda a=arrays, d=decisions: barrier_loop(a, d),
            versus="a loop over decisions with numpy on each path, unchecked and unweighed",
            size=size,
            rounds=rounds,
        )
        case(
            f"trend scan over {SHORTEST} to {LONGEST} bars, checked and weighed",
            ours=lambda b=bars, d=decisions: trend_scans(b, d, shortest=SHORTEST, longest=LONGEST),
            peer=lambda a=arrays, d=decisions: scan_loop(a, d),
            versus="a loop over decisions with numpy on all horizons, unchecked and unweighed",
            size=size,
            rounds=rounds,
        )


if __name__ == "__main__":
    main()
