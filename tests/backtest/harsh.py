"""A market in which everything happens at once: nights with quotes, finer bars, late closes, prices below zero."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from researchkit import frames
from researchkit.backtest import Costs
from researchkit.backtest.market import Market
from researchkit.backtest.rules import Rules

SYMBOLS = ("AAA", "BBB", "CCC", "FUT")
CONTRACTS = pl.DataFrame({"symbol": ["FUT"], "multiplier": [20.0], "tick": [0.25]})
QUOTES = {"ts_event": frames.INSTANT, "symbol": pl.String, "bid_px": pl.Float64, "ask_px": pl.Float64}
ACTIONS = {
    "ts_event": frames.INSTANT, "symbol": pl.String, "kind": pl.String, "ratio": pl.Float64, "amount": pl.Float64,
    "ts_pay": frames.INSTANT,
}  # fmt: skip
BRACKETS = {
    "ts_known": frames.INSTANT, "symbol": pl.String, "stop": pl.Float64, "take": pl.Float64, "bars": pl.Int64,
}  # fmt: skip
DEAR = Costs(
    bps=1.0, half_spread_bps=0.7, borrow_rate=0.05, per_unit=0.01, minimum=5.0, spread_ticks=0.5,
    slippage_bps=0.3, volume_share=0.1, impact=0.5, interest_rate=0.03,
)  # fmt: skip
PARTS = 3  # finer bars a bar


def _frame(rows):
    """Rows as sorted bars."""
    return frames.conform(pl.DataFrame(rows, schema=list(frames.BARS.columns), orient="row"), frames.BARS)


def world(seed, sessions=40):
    """Bars of six hours with a night between them, and finer bars for two out of three."""
    rng = np.random.default_rng(seed)
    start = datetime(2001, 1, 1, 14, tzinfo=UTC)
    days = [start + timedelta(days=int(d)) for d in np.cumsum(rng.integers(1, 4, sessions))]
    rows, fine = [], []
    for symbol in SYMBOLS:
        steps = rng.normal(0, 0.02, sessions * (PARTS + 1))
        path = 3 * np.cumsum(40 * steps) / 10 if symbol == "FUT" else 100 * np.exp(np.cumsum(steps))
        for i, day in enumerate(days):
            if i and rng.random() < 0.15:
                continue
            marks = path[i * (PARTS + 1) : (i + 1) * (PARTS + 1)]
            marks = np.where(
                np.abs(marks) < 0.5, np.copysign(0.5, marks), marks
            )  # nothing is sized on next to nothing
            wide = np.abs(rng.normal(0, 1.0, PARTS))
            tops, lows = np.maximum(marks[:-1], marks[1:]) + wide, np.minimum(marks[:-1], marks[1:]) - wide
            opens = marks[:-1] + rng.normal(0, 0.3, PARTS)
            if symbol != "FUT":
                opens, lows = np.maximum(opens, 0.5), np.maximum(lows, 0.5)
            tops, lows = np.maximum(tops, opens), np.minimum(lows, opens)
            end = day + timedelta(hours=6)
            late = end + timedelta(days=1) if rng.random() < 0.05 else end
            volume = int(rng.choice([0, 5_000, 200_000], p=[0.1, 0.5, 0.4]))
            rows.append((day, symbol, end, late, opens[0], tops.max(), lows.min(), marks[-1], volume))
            if rng.random() < 0.66:
                for j in range(PARTS):
                    at, until = day + timedelta(hours=2 * j), day + timedelta(hours=2 * j + 2)
                    fine.append((at, symbol, until, until, opens[j], tops[j], lows[j], marks[j + 1], 1))
    return _frame(rows), _frame(fine)


def signals(bars, seed, share=0.35):
    """Targets at closes, and some in the middle of a bar."""
    rng = np.random.default_rng(seed + 1)
    rows = bars.filter(pl.Series(rng.random(bars.height) < share)).filter(
        pl.col("ts_event") > bars["ts_event"].min() + timedelta(days=8)
    )
    inside = pl.Series(rng.random(rows.height) < 0.2)
    when = pl.when(inside).then(pl.col("ts_event").dt.offset_by("3h")).otherwise("ts_known")
    values = pl.Series(rng.choice([-1.0, -0.5, 0.0, 0.0, 0.3, 0.4, 1.0], rows.height))
    return frames.conform(rows.select(ts_known=when, symbol="symbol", target=values), frames.SIGNALS)


def actions(bars, seed):
    """Splits and dividends in the night, some on one day, and a delisting."""
    rng, made = np.random.default_rng(seed + 2), []
    days = bars["ts_event"].unique().sort().dt.truncate("1d")
    for _ in range(5):
        day, symbol = days[int(rng.integers(6, len(days) - 2))], str(rng.choice(["AAA", "BBB"]))
        if rng.random() < 0.6:
            made.append((day, symbol, "split", float(rng.choice([2.0, 0.5, 3.0])), None, None))
        if rng.random() < 0.6:
            pay = day + timedelta(days=int(rng.integers(0, 20)))
            made.append((day, symbol, "dividend", None, float(rng.uniform(0.1, 2.0)), pay))
    made.append((days[-3], "CCC", "delisting", None, None, None))
    unique = {(a[0], a[1], a[2]): a for a in made}
    return pl.DataFrame(list(unique.values()), schema=ACTIONS, orient="row")


def quotes(bars, seed):
    """Quotes in the evening, in the night, and inside the next bar; some are incomplete, some crossed."""
    rng, parts = np.random.default_rng(seed + 3), []
    for column, hours in (
        ("ts_known", 1),
        ("ts_known", 9),
        ("ts_event", 0),
        ("ts_event", 1),
        ("ts_event", 5),
    ):
        some = bars.filter(pl.Series(rng.random(bars.height) < 0.5))
        mid, half = some["close"].to_numpy(), rng.normal(0.05, 0.03, some.height)
        ask = np.where(rng.random(some.height) < 0.1, np.nan, mid + half)
        when = some[column].dt.offset_by(f"{hours}h")
        parts.append(
            pl.DataFrame({"ts_event": when, "symbol": some["symbol"], "bid_px": mid - half, "ask_px": ask})
        )
    made = pl.concat(parts).unique(["ts_event", "symbol"], keep="first", maintain_order=True).cast(QUOTES)
    return made.with_columns(pl.col("ask_px").fill_nan(None)).sort("ts_event", "symbol")


def brackets(asked, seed):
    """Exits of their own for two decisions out of three; some have only one side."""
    rng = np.random.default_rng(seed + 4)
    rows = asked.filter(pl.Series(rng.random(asked.height) < 0.66)).select("ts_known", "symbol")
    some = [
        np.where(rng.random(rows.height) < 0.2, np.nan, rng.uniform(0.005, 0.05, rows.height))
        for _ in range(2)
    ]
    made = rows.with_columns(stop=pl.Series(some[0]).fill_nan(None), take=pl.Series(some[1]).fill_nan(None))
    held = pl.Series(rng.integers(1, 9, rows.height))
    return made.with_columns(bars=pl.when(held < 7).then(held)).cast(BRACKETS)


def settlements(bars, seed):
    """Marks a little off the close for some sessions of the future."""
    rng = np.random.default_rng(seed + 5)
    rows = bars.filter(pl.col("symbol") == "FUT").select("ts_known", "symbol", mark="close")
    rows = rows.filter(pl.Series(rng.random(rows.height) < 0.6))
    return rows.with_columns(pl.col("mark") + pl.Series(rng.normal(0, 0.2, rows.height)))


def everything(seed, fill, costs=DEAR, free=False):
    """Bars, signals and the arguments of a run; `free`: no limit that depends on size."""
    bars, finer = world(seed)
    asked, rng, quoted = signals(bars, seed), np.random.default_rng(seed + 6), fill == "quotes"
    own = rng.random() < 0.4
    fixed = {} if own else dict(
        stop=float(rng.choice([0.01, 0.03])), take=float(rng.choice([0.02, 0.05])), bars=int(rng.integers(1, 9))
    )  # fmt: skip
    limits = {} if free else dict(
        lot=None if rng.random() < 0.5 else 1.0, participation=None if quoted or rng.random() < 0.3 else 0.05,
        remainder=str(rng.choice(["carry", "cancel"])),
    )  # fmt: skip
    rules = Rules(brackets=brackets(asked, seed) if own else None, **fixed, **limits)
    market = Market(
        actions=actions(bars, seed), marks=settlements(bars, seed), contracts=CONTRACTS,
        finer=finer if rng.random() < 0.7 else None, quotes=quotes(bars, seed) if quoted else None,
    )  # fmt: skip
    return bars, asked, dict(costs=costs, fill=fill, rules=rules, market=market)


def trimmed(market, at):
    """The same market with the marks of one part of the sessions."""
    return Market(
        actions=market.actions, quotes=market.quotes, contracts=market.contracts, finer=market.finer,
        marks=market.marks.filter(at),
    )  # fmt: skip


def shuffled(frame, seed):
    """The same rows in another order."""
    return None if frame is None else frame.sample(fraction=1.0, shuffle=True, seed=seed)
