"""The same bits whatever the hash seed and the number of threads."""

from __future__ import annotations

import os
import subprocess
import sys

WORK = """
import hashlib, json
from datetime import datetime, timedelta, timezone
import numpy as np, polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier
from researchkit import frames
from researchkit.calibration import suite
from researchkit.calibration.forecast import EntryModel, fit_predict
from researchkit.labels.walkforward import anchored

rng, n = np.random.default_rng(0), 500
start = datetime(1990, 1, 1, tzinfo=timezone.utc)
times = [start + timedelta(days=i // 2) for i in range(2 * n)]
names = ["signal", "noise", "x", "yy", "z"]
key = {"ts_known": times, "symbol": ["A", "B"] * n}
x = frames.conform(pl.DataFrame({**key, **{c: rng.normal(size=2 * n) for c in names}}), frames.FEATURES)
hit = rng.random(2 * n) < 1 / (1 + np.exp(-x["signal"].to_numpy()))
ends = [t + timedelta(days=4) for t in times]
y = frames.conform(pl.DataFrame({**key, "ts_end": ends, "label": hit, "weight": 0.25}), frames.LABELS)
folds = anchored(x, train=250, test=100, purge=5)
digest = hashlib.sha256()
trees = EntryModel(lambda: HistGradientBoostingClassifier(max_iter=10), "trees")
for model, how in ((EntryModel(), "auto"), (trees, "beta"), (EntryModel(), "isotonic")):
    p = fit_predict(model, x, y, folds, calibrate=how, seed=3)
    digest.update(frames.logical_hash(p, frames.PROBABILITIES).encode())
report = suite.report(p, y, resamples=50)
digest.update(json.dumps(report.to_dict(), allow_nan=False).encode())
print(digest.hexdigest())
"""


def test_bits_do_not_depend_on_hash_seed_or_threads():
    said = set()
    for seed, threads in (("0", "1"), ("12345", "4")):
        counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), threads)
        done = subprocess.run(
            [sys.executable, "-c", WORK],
            capture_output=True, text=True, check=False,
            env={**os.environ, **counts, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.add(done.stdout)
    assert len(said) == 1
