"""A sweep of a thousand pairs over a hundred thousand bars: a row of figures a pair, beside raptorbt's batch.

Both make the signals of every pair from the same running sum of closes, inside the time that is measured. raptorbt
stakes the whole account and keeps every curve, which is its interface; its processor's seconds are those of all its
threads. It lives in an environment of its own, built by `make peers`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from researchkit.settings import environment

os.environ.update(environment())

import numpy as np
import polars as pl
from numba import njit

from researchkit import frames
from researchkit.backtest import Costs
from researchkit.backtest.searches import Grid
from researchkit.backtest.sweep import sweep

PEER = Path(__file__).parents[2] / ".peers" / "raptorbt" / "bin" / "python"
BARS, ROUNDS = 100_000, 3
SPACE = {"fast": tuple(range(5, 105, 4)), "slow": tuple(range(120, 520, 10))}  # 25 × 40 pairs
THEIRS = """
import json, resource, sys, time
import numpy as np, raptorbt
close, total = np.load(sys.argv[1]), np.concatenate([[0.0], np.cumsum(np.load(sys.argv[1]))])
stamps, volume = np.arange(close.size, dtype=np.int64) * 60_000_000_000, np.ones(close.size)
config = raptorbt.BacktestConfig(initial_capital=1e6, fees=1.5e-4)
def run(pairs):
    items = []
    for fast, slow in pairs:
        above = np.zeros(close.size, bool)
        above[slow - 1:] = (total[slow:] - total[slow - fast:-fast]) / fast > (total[slow:] - total[:-slow]) / slow
        change = np.diff(above.astype(np.int8), prepend=0)
        items.append(raptorbt.BatchSingleItem(f"{fast}/{slow}", change > 0, change < 0))
    made = raptorbt.batch_single_backtest(stamps, close, close, close, close, volume, items, config)
    return sum(float(r.equity_curve()[-1]) for _, r in made)
pairs = json.loads(sys.argv[2])
run(pairs[:10])
for line in sys.stdin:
    before = time.process_time()
    run(pairs)
    print(json.dumps({"cpu": time.process_time() - before, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}), flush=True)
"""


@njit(cache=True)
def crossing_nb(total, fast, slow, found):
    """1 while the mean of `fast` closes is above that of `slow` closes, else 0."""
    found[: slow - 1] = 0.0
    for i in range(slow - 1, found.size):
        end = total[i + 1]
        found[i] = 1.0 if (end - total[i + 1 - fast]) / fast > (end - total[i + 1 - slow]) / slow else 0.0


def prepared(bars: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The running sum of closes, and room for targets."""
    return np.concatenate([[0.0], np.cumsum(bars["close"].to_numpy())]), np.zeros(bars.height)


def crossing(given: tuple[np.ndarray, np.ndarray], fast: int, slow: int) -> np.ndarray:
    """The targets of one pair."""
    crossing_nb(given[0], fast, slow, given[1])
    return given[1]


def market(bars: int) -> pl.DataFrame:
    """A random walk of minute bars."""
    rng, start = np.random.default_rng(5), datetime(2000, 1, 3, tzinfo=UTC)
    close = 100 * np.exp(np.cumsum(0.0005 * rng.standard_normal(bars)))
    event = pl.datetime_range(start, start + timedelta(minutes=bars - 1), "1m", time_unit="ns", eager=True)
    known = event.dt.offset_by("1m")
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    data = {"ts_event": event, "symbol": ["TST"] * bars, "ts_known": known, "ts_published": known, **prices}
    return frames.conform(pl.DataFrame(data | {"volume": np.ones(bars, np.uint64)}), frames.BARS)


def ours(bars: pl.DataFrame) -> float:
    """Processor's seconds of the whole sweep, door included."""
    before = time.process_time()
    rows = pl.concat(
        sweep(crossing, bars, Grid(SPACE), costs=Costs(bps=1.0, half_spread_bps=0.5), prepare=prepared)
    )
    assert (rows.height, rows["error"].null_count()) == (1_000, 1_000)
    return time.process_time() - before


def worst() -> float:
    """Megabytes in use at the worst moment since the mark was cleared."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def told(case: str, size: str, mine: list[float], versus: str, theirs: list[float]) -> None:
    """One JSON line as the page of results wants it."""
    ratios = sorted(a / b for a, b in zip(mine, theirs, strict=True))
    line = {
        "bench": "sweep", "case": case, "size": size, "cpu_ms": round(statistics.median(mine), 2), "versus": versus,
        "versus_cpu_ms": round(statistics.median(theirs), 2), "ratio": float(f"{statistics.median(ratios):.3g}"),
        "ratio_low": float(f"{ratios[0]:.3g}"), "ratio_high": float(f"{ratios[-1]:.3g}"), "rounds": len(mine),
    }  # fmt: skip
    print(json.dumps(line, ensure_ascii=False), flush=True)


def main() -> None:
    """Take turns, then say what memory each took."""
    bars = market(BARS)
    ours(bars.head(1_000))
    Path("/proc/self/clear_refs").write_text("5")
    before = worst()
    ours(bars)
    used, size = worst() - before, f"1,000 pairs × {BARS:,} bars"
    if not PEER.exists():
        why = f"{PEER} is missing: make peers builds it"
        print(
            json.dumps({"bench": "sweep", "case": "beside raptorbt", "size": size, "skipped": why}),
            file=sys.stderr,
        )
        mine = [1e3 * ours(bars) for _ in range(ROUNDS)]
        told("a row of figures a pair", size, mine, "itself: no peer here", mine)
        return
    pairs = [[f, s] for f in SPACE["fast"] for s in SPACE["slow"]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "close.npy"
        np.save(path, bars["close"].to_numpy())
        words = [str(PEER), "-c", THEIRS, str(path), json.dumps(pairs)]
        quiet = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        mine, theirs, held = [], [], 0.0
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet
        ) as peer:
            for _ in range(ROUNDS):
                mine.append(1e3 * ours(bars))
                print(1, file=peer.stdin, flush=True)
                said = json.loads(peer.stdout.readline())
                theirs.append(1e3 * said["cpu"])
                held = said["mb"]
            peer.stdin.close()
    told("a row of figures a pair", size, mine, "raptorbt's batch", theirs)
    told("memory above the program, MB for ms", size, [used], "raptorbt's batch, whole process", [held])


if __name__ == "__main__":
    main()
