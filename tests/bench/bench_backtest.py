"""A backtest with every output, beside the loop that must run in any case."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from researchkit.settings import environment

os.environ.update(environment())

import numpy as np
import polars as pl
from measuring import case

from researchkit import frames
from researchkit.backtest import Costs
from researchkit.backtest.fills import simulate
from researchkit.backtest.kernels import simulate_2d_nb


def market(bars: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A random walk of minute bars, and a target that changes on about every tenth."""
    rng, start = np.random.default_rng(seed), datetime(2000, 1, 3, tzinfo=UTC)
    close = 100 * np.exp(np.cumsum(0.0005 * rng.standard_normal(bars)))
    event = pl.datetime_range(start, start + timedelta(minutes=bars - 1), "1m", time_unit="ns", eager=True)
    known = event.dt.offset_by("1m")
    prices = {name: close for name in ("open", "high", "low", "close")}
    data = {
        "ts_event": event,
        "symbol": ["TST"] * bars,
        "ts_known": known,
        "ts_published": known,
        **prices,
        "volume": np.ones(bars, np.uint64),
    }
    steps = np.flatnonzero(rng.random(bars) < 0.1)
    target = rng.choice([-1.0, 0.0, 1.0], len(steps))
    signals = pl.DataFrame(
        {"ts_known": known.gather(steps), "symbol": ["TST"] * len(steps), "target": target}
    )
    return frames.conform(pl.DataFrame(data), frames.BARS), frames.conform(signals, frames.SIGNALS)


def main() -> None:
    """One symbol, the whole result, three sizes."""
    for bars in (2_500, 25_000, 250_000):
        frame, signals = market(bars)
        close = frame["close"].to_numpy().reshape(-1, 1).copy()
        wanted = np.full((bars, 1), np.nan)
        at = frame["ts_known"].search_sorted(signals["ts_known"]).to_numpy()
        wanted[np.minimum(at + 1, bars - 1), 0] = signals["target"].to_numpy() * 1e6 / 100
        days, terms = np.full(bars, 1 / 1440), (1e6, 1.5e-4, 0.0)
        case(
            "one symbol, fills, positions, equity and costs",
            ours=lambda frame=frame, signals=signals: simulate(frame, signals, costs=Costs()),
            peer=lambda close=close, wanted=wanted, days=days, terms=terms: simulate_2d_nb(
                close, close, wanted, days, terms
            ),
            versus="the bare numba loop on the same arrays, already laid out",
            size=f"{bars:,} bars",
        )


if __name__ == "__main__":
    main()
