"""The short way scores as the books do, whatever the prices and targets; a sweep loses no point and doubles none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit.backtest import Costs
from researchkit.backtest.fills import simulate
from researchkit.backtest.scoring import Tape, score_net
from researchkit.backtest.searches import Grid, Random
from researchkit.backtest.sweep import best, sweep
from researchkit.frames import BARS, SIGNALS, conform

START = datetime(2020, 1, 1, tzinfo=UTC)


def market(n: int, seed: int) -> pl.DataFrame:
    """A random walk with gaps between close and open."""
    rng = np.random.default_rng(seed)
    close = 50 * np.exp(np.cumsum(0.02 * rng.standard_normal(n)))
    opened = close * np.exp(0.01 * rng.standard_normal(n))
    frame = pl.DataFrame({"ts_event": [START + timedelta(days=i) for i in range(n)], "symbol": ["A"] * n})
    frame = frame.with_columns(open=pl.Series(opened), close=pl.Series(close), volume=pl.lit(5))
    frame = frame.with_columns(
        high=pl.max_horizontal("open", "close"), low=pl.min_horizontal("open", "close")
    )
    known = pl.col("ts_event") + pl.duration(days=1)
    return conform(frame.with_columns(ts_known=known, ts_published=known), BARS)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    targets=st.lists(st.sampled_from([-1.5, -1.0, 0.0, 0.25, 1.0]), min_size=3, max_size=60),
    bps=st.floats(0, 50),
    fill=st.sampled_from(["next_close", "next_open"]),
)
def test_a_score_is_what_the_books_say(seed: int, targets: list[float], bps: float, fill: str) -> None:
    bars, target = market(len(targets), seed), np.array(targets)
    costs = Costs(bps=bps, half_spread_bps=0.0)
    signals = conform(pl.DataFrame({"ts_known": bars["ts_known"], "symbol": "A", "target": target}), SIGNALS)
    made = simulate(bars, signals, costs=costs, fill=fill)  # type: ignore[arg-type]
    short = Tape(bars, costs=costs, fill=fill).score(target)
    books = score_net(made.equity, orders=made.fills["order"].n_unique())
    for name in ("annual_return", "volatility", "max_drawdown", "turnover_annual", "costs_annual", "exposed"):
        assert getattr(short, name) == pytest.approx(getattr(books, name), rel=1e-9, abs=1e-12), name
    assert (short.orders, short.stream) == (books.orders, books.stream)


def hold(bars: pl.DataFrame, size: float, wrong: int = 0) -> np.ndarray:
    """Hold so much; some points are nonsense."""
    if wrong:
        raise ValueError("nonsense")
    return np.full(bars.height, size)


@pytest.mark.parametrize("every", [1, 3, 100])
def test_every_point_is_a_row_once(every: int) -> None:
    bars, space = market(30, 1), {"size": [0.0, 0.5, 1.0], "wrong": [0, 1]}
    found = pl.concat(sweep(hold, bars, Grid(space), costs=Costs(), every=every), how="vertical_relaxed")
    assert found["point"].to_list() == [1, 2, 3, 4, 5, 6]
    assert found["error"].to_list() == [None, "nonsense"] * 3
    won = best(found.filter(pl.col("size") > 0))
    assert (won.tried, won.failed, won.streams) == (4, 2, 2)


def test_a_draw_repeats_and_never_draws_twice() -> None:
    space = {"a": list(range(7)), "b": list(range(11))}

    def drawn(seed: int) -> list[tuple[int, ...]]:
        search = Random(space, 77, seed=seed)
        return [tuple(p.values()) for p in iter(search.ask, None)]

    assert drawn(3) == drawn(3) != drawn(4)
    assert len(set(drawn(3))) == 77
