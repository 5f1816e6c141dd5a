"""The reports of a backtest do not depend on threads or on the seed of Python's hashes."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import hashlib, io, sys
import polars as pl
from worlds import market, run, targets
from researchkit.backtest import Costs, charges, drawdowns, exposure, metrics, scenarios, stress
from researchkit.backtest.attribution import attribute
from researchkit.backtest.parity import first_divergence

bars = market(1, sessions=600, symbols=tuple(f"S{i:02}" for i in range(20)))
signals = targets(bars, 1)
one, two = run(bars, signals, "one", borrow_rate=0.03), run(bars, targets(bars, 2), "two", borrow_rate=0.03)
found = attribute(one, two, bars)
frames = [
    metrics.table(one, bars=bars), drawdowns.episodes(one.equity, None), exposure.exposure(one), charges.by_symbol(one),
    charges.by_year(one), found.rows, found.table("month", "cause"), stress.costs(one), scenarios.table(one),
    stress.delays(bars, signals, costs=Costs(), by=(0, 3)), first_divergence(one, two).table(),
]
for frame in frames:
    sink = io.BytesIO()
    frame.write_ipc(sink)
    print(hashlib.sha256(sink.getvalue()).hexdigest()[:16])
"""


def printed(threads: int, seed: int) -> list[str]:
    """Run the reports in a process of their own."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1])])
    given = {
        "POLARS_MAX_THREADS": str(threads),
        "NUMBA_NUM_THREADS": str(threads),
        "PYTHONHASHSEED": str(seed),
        "PYTHONPATH": path,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_threads_and_hash_seeds_change_nothing():
    first, second = printed(1, 1), printed(4, 2)
    assert len(first) == 11
    assert first == second
