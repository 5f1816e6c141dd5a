"""A view computes the same bits whatever the threads, the hash seed and the order of the rows."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
from datetime import UTC, datetime, timedelta
import numpy as np, polars as pl
from researchkit import frames
from researchkit.features.library import trend_core
from researchkit.features.view import compute, identity
rng = np.random.default_rng(0)
start = [datetime(2003, 1, 1, tzinfo=UTC) + timedelta(days=i) for i in range(600)]
parts = []
for s in "ABCDE":
    c = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 600)))
    prices = dict(open=c, high=c * 1.01, low=c * 0.99, close=c, volume=1000)
    parts.append(pl.DataFrame(dict(ts_event=start, symbol=s, **prices)))
known = pl.col("ts_event") + timedelta(days=1)
bars = frames.conform(pl.concat(parts).with_columns(ts_known=known, ts_published=known), frames.BARS)
print(frames.logical_hash(compute(trend_core, bars), frames.FEATURES), identity(trend_core))
"""


def run(threads: str, seed: str) -> str:
    env = {**os.environ, "POLARS_MAX_THREADS": threads, "PYTHONHASHSEED": seed}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True, timeout=120
    ).stdout


@pytest.mark.parametrize(("threads", "seed"), [("2", "7"), ("4", "random")])
def test_same_bits_whatever_the_threads_and_the_hash_seed(threads, seed):
    assert run(threads, seed) == run("1", "0")
