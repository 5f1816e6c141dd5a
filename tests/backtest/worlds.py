"""Small random markets and strategies for the tests of this folder."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from researchkit import frames
from researchkit.backtest import Costs, fills


def market(seed, sessions=60, symbols=("AAA", "BBB", "CCC"), holes=0.15, volume=10**6):
    """Random bars: opens apart from closes, symbols that miss sessions."""
    rng = np.random.default_rng(seed)
    days, rows = [datetime(2001, 1, 1, tzinfo=UTC) + timedelta(days=i) for i in range(sessions)], []
    for symbol in symbols:
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, sessions)))
        opened = close * np.exp(rng.normal(0, 0.01, sessions))
        for i, day in enumerate(days):
            if i and rng.random() < holes:
                continue
            end, high, low = day + timedelta(days=1), max(close[i], opened[i]), min(close[i], opened[i])
            rows.append((day, symbol, end, end, opened[i], high, low, close[i], volume))
    return frames.conform(pl.DataFrame(rows, schema=list(frames.BARS.columns), orient="row"), frames.BARS)


def targets(bars, seed, share=0.4):
    """Random targets, long and short, at some of the bars' own instants."""
    rng = np.random.default_rng(seed + 1000)
    rows = bars.select("ts_known", "symbol").filter(pl.Series(rng.random(bars.height) < share))
    values = pl.Series(rng.choice([-1.0, -0.5, 0.0, 0.0, 0.3, 1.0], rows.height), dtype=pl.Float64)
    return frames.conform(rows.with_columns(target=values), frames.SIGNALS)


def run(bars, signals, label="", **costs):
    """Simulate with the costs given."""
    fill = costs.pop("fill", "next_close")
    return fills.simulate(bars, signals, costs=Costs(**costs), label=label, fill=fill)
