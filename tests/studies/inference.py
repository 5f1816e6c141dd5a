"""Count how often each test is wrong in worlds where the truth is known, and write it down.

    make study-inference                                     # 1,000 worlds a row, some minutes
    .venv/bin/python tests/studies/inference.py --worlds 100 --page /tmp/page.ipynb

A naive test runs in the same worlds and must fail, so that the harness is known to be able to see a failure. The page
is written by this command and by nobody else.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from researchkit.settings import environment

os.environ.update(environment())
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from results_page import results_page

from researchkit.inference.betting import bet_each_session, bet_on_average
from researchkit.inference.confidence import confidence_sequence, running_variance
from researchkit.inference.ledoit_wolf import sharpe_difference
from researchkit.inference.overfitting import overfitting
from researchkit.inference.sharpe import probabilistic_sharpe
from researchkit.inference.superior import spa, stepm
from researchkit.inference.trials import deflate_best

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "nbs" / "results" / "09_inference.ipynb"
BATCH = 25  # worlds that share a seed; the first batch is what `make test` runs again
LEVEL = 0.05
WHY = """Every row is one test in worlds whose truth is known. **Size** is how often it says yes where there is nothing;
it should be at most 5 %. **Power** is how often it finds what is there. Rows called *naive* ignore something, on
purpose: dependence, the number of strategies, or the number of looks. They run in the very same worlds and must fail,
or the harness could not see a failure.

Returns are GARCH(1,1) with Student-t shocks of five degrees of freedom and the stated first-order autocorrelation,
half of their variance common to all columns. A test *holds* when its share is at most 5 % plus two Monte Carlo errors
of a true 5 % test; a naive one *fails* when it is above that. `make test` runs the first 25 worlds of every row again
and compares them with the last column."""


@dataclass(frozen=True)
class Row:
    """One test in one kind of world."""

    what: str
    world: str
    expected: str  # "holds", "fails" (naive, and has to) or "power"


Batch = Callable[[int], dict[Row, np.ndarray]]  # number of the batch to what each test said, shape (BATCH,)


def returns(rng: np.random.Generator, n: int, k: int, ar: float) -> np.ndarray:  # shape (BATCH, n, k)
    """GARCH(1,1) with t shocks, half common, and first-order autocorrelation; mean zero, 1 % a session."""
    shape, burn = (BATCH, n + 100, k), 100
    z = rng.standard_t(5, shape) / math.sqrt(5 / 3)
    z = math.sqrt(0.5) * z + math.sqrt(0.5) * rng.standard_t(5, (*shape[:2], 1)) / math.sqrt(5 / 3)
    h, e, x = np.ones((BATCH, k)), np.zeros((BATCH, k)), np.zeros((BATCH, k))
    out = np.empty(shape)
    for t in range(n + burn):
        h = 0.05 + 0.05 * e**2 + 0.9 * h
        e = np.sqrt(h) * z[:, t]
        x = ar * x + e
        out[:, t] = x
    return 0.01 * out[:, burn:]


def memmel(k: np.ndarray, b: np.ndarray) -> float:
    """z of the textbook test of two Sharpe ratios, true for independent normal returns (Memmel 2003)."""
    sk, sb, rho = k.mean() / k.std(), b.mean() / b.std(), np.corrcoef(k, b)[0, 1]
    variance = (2 - 2 * rho + 0.5 * (sk**2 + sb**2 - 2 * sk * sb * rho**2)) / k.size
    return float((sk - sb) / math.sqrt(variance))


def ratios(ar: float, edge: float = 0.0) -> Batch:
    """Two Sharpe ratios: studentised block bootstrap beside the textbook test, two years, one-sided."""
    world = f"two series, 504 sessions, AR({ar}), true difference {edge:g} a year"
    asked = ("power", "power") if edge else ("holds", "fails" if ar else "holds")
    rows = Row("Ledoit–Wolf, bootstrap", world, asked[0]), Row("naive: Memmel's z, i.i.d.", world, asked[1])

    def batch(number: int) -> dict[Row, np.ndarray]:
        x = returns(np.random.default_rng([1, int(100 * ar), int(10 * edge), number]), 504, 2, ar)
        x[:, :, 0] += edge / math.sqrt(252) * 0.01 / math.sqrt(1 - ar**2)
        said = [
            (sharpe_difference(w[:, 0], w[:, 1], seed=1, count=499).p_one_sided, memmel(w[:, 0], w[:, 1]))
            for w in x
        ]
        return {
            rows[0]: np.array([p <= LEVEL for p, _ in said]),
            rows[1]: np.array([z > 1.645 for _, z in said]),
        }

    return batch


def many(edge: float = 0.0) -> Batch:
    """Twenty strategies against a baseline: SPA and StepM beside the best one's own t-test."""
    world = (
        f"20 strategies, 504 sessions, AR(0.1), {'no edge' if not edge else f'one with a ratio of {edge:g}'}"
    )
    asked = ("power",) * 3 if edge else ("holds", "holds", "fails")
    names = "SPA, consistent", "StepM, any claim", "naive: the best one's t-test"
    rows = [Row(name, world, want) for name, want in zip(names, asked, strict=True)]

    def batch(number: int) -> dict[Row, np.ndarray]:
        x = returns(np.random.default_rng([2, int(10 * edge), number]), 504, 20, 0.1)
        x[:, :, 3] += edge / math.sqrt(252) * 0.01
        t = x.mean(axis=1) / x.std(axis=1, ddof=1) * math.sqrt(504)
        one = [spa(w, seed=1, block=10, count=499).consistent <= LEVEL for w in x]
        each = [stepm(w, seed=1, block=10, count=499).p.min() <= LEVEL for w in x]
        return dict(zip(rows, (np.array(one), np.array(each), t.max(axis=1) > 1.645), strict=True))

    return batch


def looking(ar: float, edge: float = 0.0) -> Batch:
    """A mean looked at on every evening of five years: is 0 ever left out."""
    world = f"1,260 sessions, AR({ar}), looked at daily, {'mean 0' if not edge else f'a ratio of {edge:g}'}"
    asked = ("power",) * 2 if edge else ("holds", "fails")
    names = "confidence sequence, lag 5", "naive: fixed 95 % interval, daily"
    rows = [Row(name, world, want) for name, want in zip(names, asked, strict=True)]
    t = np.arange(1.0, 1261)

    def batch(number: int) -> dict[Row, np.ndarray]:
        x = returns(np.random.default_rng([3, int(100 * ar), int(10 * edge), number]), 1260, 1, ar)[:, :, 0]
        x += edge / math.sqrt(252) * 0.01
        ever = [confidence_sequence(w).decided() is not None for w in x]
        naive = [
            bool((np.abs(np.cumsum(w) / t) > 1.96 * np.sqrt(running_variance(w, 0) / t))[62:].any())
            for w in x
        ]
        return {rows[0]: np.array(ever), rows[1]: np.array(naive)}

    return batch


def forecasters(better: bool = False) -> Batch:
    """Two forecasters, scored daily by Brier: equally far from the truth, or one of them at it."""
    world = f"1,000 days of rain, looked at daily, {'one honest, one shy' if better else 'equally wrong'}"
    asked = ("power",) * 3 if better else ("holds", "holds", "fails")
    names = "betting, each session", "betting, on average", "naive: t-test, daily"
    rows = [Row(name, world, want) for name, want in zip(names, asked, strict=True)]
    t = np.arange(1.0, 1001)

    def batch(number: int) -> dict[Row, np.ndarray]:
        rng = np.random.default_rng([4, int(better), number])
        chance = rng.uniform(0.1, 0.9, (BATCH, 1000))
        rain = (rng.random(chance.shape) < chance) * 1.0
        other, own = (0.5 + 0.4 * (chance - 0.5), chance) if better else (chance + 0.1, chance - 0.1)
        d = (other - rain) ** 2 - (own - rain) ** 2
        naive = [bool((np.cumsum(w) / t > 1.645 * np.sqrt(running_variance(w, 0) / t))[62:].any()) for w in d]
        each = [bet_each_session(w).rejected() is not None for w in d]
        mean = [bet_on_average(w).rejected() is not None for w in d]
        return dict(zip(rows, map(np.array, (each, mean, naive)), strict=True))

    return batch


def overlapping() -> Batch:
    """Outcomes that take ten sessions: bets in ten streams beside bets as if settled at once."""
    world = "1,000 days, outcomes overlap over 10, nothing to find"
    rows = Row("betting, horizon 10", world, "holds"), Row("naive: betting, horizon 1", world, "fails")
    window = np.ones(10) / 10

    def batch(number: int) -> dict[Row, np.ndarray]:
        coins = np.random.default_rng([5, number]).choice([-1.0, 1.0], (BATCH, 1009))
        d = [np.convolve(w, window, mode="valid").clip(-1, 1) for w in coins]
        streams = [bet_each_session(w, horizon=10).rejected() is not None for w in d]
        return {
            rows[0]: np.array(streams),
            rows[1]: np.array([bet_each_session(w).rejected() is not None for w in d]),
        }

    return batch


def deflated() -> Batch:
    """The best of a hundred strategies without any edge: deflated, and on its own."""
    world = "best of 100 strategies without any edge, 1,260 sessions"
    rows = Row("deflated Sharpe above 0.95", world, "holds"), Row("naive: PSR above 0.95", world, "fails")

    def batch(number: int) -> dict[Row, np.ndarray]:
        x = 0.01 * np.random.default_rng([6, number]).standard_t(5, (BATCH, 1260, 100))
        best = (x.mean(axis=1) / x.std(axis=1, ddof=1)).max(axis=1)
        alone = [probabilistic_sharpe(float(sr), n=1260) > 1 - LEVEL for sr in best]
        return {rows[0]: np.array([deflate_best(w).value > 1 - LEVEL for w in x]), rows[1]: np.array(alone)}

    return batch


def halves(edge: float = 0.0) -> Batch:
    """The probability of backtest overfitting as a rule: keep the winner if it is below 5 %; beside one split in two."""
    world = f"20 strategies, 1,008 sessions, AR(0.1), {'no edge' if not edge else f'one with a ratio of {edge:g}'}"
    asked = ("power", "power") if edge else ("holds", "fails")
    names = "PBO below 0.05", "naive: best of the first half, above the middle of the second"
    rows = [Row(name, world, want) for name, want in zip(names, asked, strict=True)]

    def batch(number: int) -> dict[Row, np.ndarray]:
        x = returns(np.random.default_rng([7, int(10 * edge), number]), 1008, 20, 0.1)
        x[:, :, 3] += edge / math.sqrt(252) * 0.01
        first, second = (part.mean(axis=1) / part.std(axis=1) for part in (x[:, :504], x[:, 504:]))
        best = np.take_along_axis(second, first.argmax(axis=1)[:, None], axis=1)[:, 0]
        low = [overfitting(w, blocks=16).pbo < LEVEL for w in x]
        return {rows[0]: np.array(low), rows[1]: best > np.median(second, axis=1)}

    return batch


BATCHES: dict[str, Batch] = {
    "ratios, independent": ratios(0.0),
    "ratios, AR(0.1)": ratios(0.1),
    "ratios, AR(0.3)": ratios(0.3),
    "ratios, power": ratios(0.1, edge=2.0),
    "many": many(),
    "many, power": many(edge=3.0),
    "looking, AR(0.1)": looking(0.1),
    "looking, AR(0.3)": looking(0.3),
    "looking, power": looking(0.1, edge=2.0),
    "forecasters": forecasters(),
    "forecasters, power": forecasters(better=True),
    "overlapping": overlapping(),
    "deflated": deflated(),
    "halves": halves(),
    "halves, power": halves(edge=3.0),
}


def line(row: Row, said: np.ndarray) -> str:
    """A row of the page."""
    share, error = float(said.mean()), math.sqrt(max(float(said.var()), 1e-12) / said.size)
    limit = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / said.size)
    found = "power" if row.expected == "power" else "holds" if share <= limit else "fails"
    mark = found if found == row.expected else f"**{found}, expected: {row.expected}**"
    return f"| {row.what} | {row.world} | {said.size:,} | {share:.3f} ± {error:.3f} | {mark} | {said[:BATCH].sum()} |"


def told(worlds: int) -> str:
    """Where and how the numbers were taken."""
    git = ["git", "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return (
        f"{worlds:,} worlds a row, seeds [kind, parameters, batch of {BATCH}]; level {LEVEL}, one-sided except the "
        f"intervals; commit {commit}, {platform.machine()}, Python {platform.python_version()}, {date.today().isoformat()}."
    )


def main() -> int:
    """Run every row and write the page; exit 1 if one is not as expected."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worlds", type=int, default=1000, help=f"a multiple of {BATCH}")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    lines = []
    for name, batch in BATCHES.items():
        parts = [batch(number) for number in range(given.worlds // BATCH)]
        for row in parts[0]:
            lines.append(line(row, np.concatenate([part[row] for part in parts])))
            print(f"{name:<22} {lines[-1]}", flush=True)
    table = "| test | world | worlds | share that says yes | | in the first 25 |\n|---|---|---|---|---|---|\n"
    title = "# How often inference is wrong\n\n> Size and power of every test of the room, by simulation: `make study-inference`."
    given.page.write_text(
        results_page([title, WHY, told(given.worlds) + "\n\n" + table + "\n".join(lines)], "inf")
    )
    return 1 if any("expected:" in text for text in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
