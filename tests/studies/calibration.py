"""Ask the tests of calibration, in worlds where the answer is known, whether they keep their promises.

    make study-calibration

The page is written by this command and by nobody else. Every world has a forecast that drifts slowly and outcomes
that overlap; every test runs twice, as it is used and in a naive version that takes rows for independent. The naive
ones must fail, or the harness could not tell good from bad.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from researchkit.settings import environment

os.environ.update(environment())
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray
from results_page import results_page
from scipy.special import expit, logit, ndtri
from scipy.stats import beta, norm

from researchkit.calibration.alarm import alarm
from researchkit.calibration.band import curve_band
from researchkit.calibration.binned import ece
from researchkit.calibration.diagonal import almost_diagonal
from researchkit.calibration.lines import bias, line, spiegelhalter
from researchkit.calibration.reliability import consistency

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "nbs" / "results" / "10_calibration.ipynb"
World = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
LEVEL = 0.05


@dataclass(frozen=True)
class Maker:
    """How the truth departs from the forecast."""

    name: str
    n: int = 600  # rows, one a session
    open_for: int = 10  # rows that an outcome stays open
    shift: float = 0.0  # added to the chance: the forecast is too low by it
    slope: float = 1.0  # of the log-odds: below 1 the forecast is too bold
    late: bool = False  # the departure begins at the middle

    def world(self, seed: int) -> World:
        """Forecasts, outcomes and true chances of one world."""
        rng = np.random.default_rng([seed, self.n, self.open_for])
        drift = rng.normal(size=self.n + 200)
        for i in range(1, drift.size):
            drift[i] += 0.97 * drift[i - 1]
        p = expit(0.5 * drift[200:] * np.sqrt(1 - 0.97**2))
        true = np.clip(expit(logit(p) * self.slope) + self.shift, 0.001, 0.999)
        if self.late:
            true[: self.n // 2] = p[: self.n // 2]
        shocks = rng.normal(size=self.n + self.open_for - 1)
        z = np.convolve(shocks, np.ones(self.open_for) / np.sqrt(self.open_for), "valid")
        return p, (z < ndtri(true)).astype(np.float64), true


Test = Callable[[World, int], bool]


def _line_p(world: World, overlap: int) -> bool:
    found = line(world[0], world[1], overlap=overlap).p_value
    return found is not None and found < LEVEL


def _looked_at_daily(world: World, _: int) -> bool:
    """The z test of every morning since the fiftieth."""
    p, y, _true = world
    gap, var = np.cumsum(y - p)[49:], np.cumsum(p * (1 - p))[49:]
    return bool((np.abs(gap) / np.sqrt(var) > norm.ppf(1 - LEVEL / 2)).any())


def _rang(world: World, overlap: int) -> bool:
    row = np.arange(world[0].size)
    return alarm(world[0], world[1], known=row, ends=row + overlap, level=LEVEL).rang


TESTS: dict[str, Test] = {
    "mean of y - p": lambda w, o: bias(w[0], w[1], overlap=o).p_value < LEVEL,
    "slope and intercept": _line_p,
    "Spiegelhalter": lambda w, o: spiegelhalter(w[0], w[1], overlap=o).p_value < LEVEL,
    "honest worlds, PAV": lambda w, o: (
        consistency(w[0], w[1], block=o, resamples=99, at=w[0][:1]).p_value < LEVEL
    ),
    "honest worlds, ECE": lambda w, o: ece(w[0], w[1], overlap=o, resamples=99).p_value < LEVEL,
    "alarm, at any time": _rang,
}
TERMS = {"threshold": 0.5, "width": 0.2}


def verdict(world: World, overlap: int, tolerance: float) -> str:
    """The answer of the test near the threshold."""
    return almost_diagonal(world[0], world[1], overlap=overlap, tolerance=tolerance, **TERMS).verdict


def share(answers: Iterable[bool]) -> tuple[float, float, int]:
    """A rate, the upper end of its one-sided 95 % interval (Clopper and Pearson 1934), and the worlds."""
    found = list(answers)
    k, n = sum(found), len(found)
    return k / n, 1.0 if k == n else float(beta.ppf(0.95, k + 1, n - k)), n


def said(rate: tuple[float, float, int]) -> str:
    """A rate with its standard error."""
    return f"{rate[0]:.3f} ± {np.sqrt(max(rate[0] * (1 - rate[0]), 0.25 / rate[2]) / rate[2]):.3f}"


# --- what each section counts ---


def one(job: tuple[str, Maker, int]) -> dict[str, bool]:
    """Everything that one world answers."""
    kind, maker, seed = job
    world, o = maker.world(seed), maker.open_for
    if kind == "tests":
        both = {
            (name, who): (test, k) for name, test in TESTS.items() for who, k in (("aware", o), ("naive", 1))
        }
        found = {f"{name}|{who}": bool(test(world, k)) for (name, who), (test, k) in both.items()}
        return found | {"z test every morning|naive": _looked_at_daily(world, 1)}
    if kind == "near":
        return {
            f"{word}|{who}": verdict(world, k, 0.1) == word
            for word in ("pass", "fail")
            for who, k in (("aware", o), ("naive", 1))
        }
    found = {}
    for who, k in (("aware", o), ("naive", 1)):
        band = curve_band(world[0], world[1], overlap=k, cells=20, resamples=200)
        middle = band.row(band.height // 2, named=True)
        true = float(np.interp(middle["p"], np.sort(world[0]), np.sort(world[2])))
        found[f"confidence band, middle|{who}"] = middle["low"] <= true <= middle["high"]
        at = np.sort(world[0])[[world[0].size // 2]]
        honest = consistency(world[0], world[1], block=k, resamples=199, at=at)
        curve = np.interp(at[0], *_curve(world))
        found[f"consistency band, middle|{who}"] = bool(
            honest.band["low"][0] <= curve <= honest.band["high"][0]
        )
    return found


def _curve(world: World) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from researchkit.calibration.pav import pav

    found = pav(world[0], world[1])
    return found.p, found.rate


def count(
    kind: str, maker: Maker, worlds: int, pool: ProcessPoolExecutor | None
) -> dict[str, tuple[float, float, int]]:
    """The share of worlds in which each answer was yes."""
    jobs = [(kind, maker, seed) for seed in range(worlds)]
    answers = list(map(one, jobs) if pool is None else pool.map(one, jobs, chunksize=20))
    return {name: share(a[name] for a in answers) for name in answers[0]}


TRUE = (
    Maker("independent", open_for=1),
    Maker("overlap 10"),
    Maker("overlap 20, 1,200 rows", n=1200, open_for=20),
)
WRONG = (
    Maker("too high by 0.1", shift=-0.1),
    Maker("too high by 0.2", shift=-0.2),
    Maker("too bold, slope 0.25", slope=0.25),
    Maker("too high by 0.2, 3,000 rows", n=3000, shift=-0.2),
    Maker("too high by 0.2 in the second half of 6,000", n=6000, shift=-0.2, late=True),
)
NEAR = (
    Maker("error at the tolerance, overlap 1", n=3000, open_for=1, shift=0.1),
    Maker("error at the tolerance, overlap 10", n=3000, shift=0.1),
    Maker("error at minus the tolerance, overlap 10", n=3000, shift=-0.1),
    Maker("no error, overlap 1", n=3000, open_for=1),
    Maker("no error, overlap 10", n=3000),
    Maker("no error, overlap 10, 600 rows", n=600),
    Maker("twice the tolerance, overlap 10", n=3000, shift=-0.2),
)


def table(kind: str, makers: tuple[Maker, ...], worlds: int, pool: ProcessPoolExecutor | None) -> str:
    """One section's numbers as Markdown: a row a question, two columns a world."""
    found = {m.name: count(kind, m, worlds, pool) for m in makers}
    for name, rates in found.items():
        print(name, {k: round(v[0], 3) for k, v in rates.items()}, flush=True)
    names = list(dict.fromkeys(k.split("|")[0] for rates in found.values() for k in rates))
    head = "| world | answer | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names)
    lines = [
        f"| {world} | {who} | "
        + " | ".join(said(rates[f"{n}|{who}"]) if f"{n}|{who}" in rates else "" for n in names)
        + " |"
        for world, rates in found.items()
        for who in ("aware", "naive")
    ]
    return "\n".join([head, *lines])


WHY = """Every world has one forecast a session that drifts slowly, and outcomes decided by the sum of the shocks of the
sessions over which they are open, so that neighbours share most of what decides them. Size is counted where the forecast
is the truth, power where it is not. *Aware* is the test as it is used; *naive* is the same test told that rows are
independent. Errors are standard errors of the simulation. Not among these worlds: outcomes that end early at a barrier,
volatility in regimes, several symbols."""


def main() -> int:
    """Simulate, and write the page."""
    worlds = int(os.environ.get("WORLDS", "1000"))
    with ProcessPoolExecutor(2) as pool:
        size = table("tests", TRUE, worlds, pool)
        near = table("near", NEAR, worlds, pool)
        cover = table("bands", TRUE, worlds, pool)
        power = table("tests", WRONG, max(worlds // 5, 2), pool)
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    title = f"# Do the tests of calibration keep their promises?\n\n> `make study-calibration`, {worlds:,} worlds, seeds 0 to {worlds - 1}, commit {commit}."
    texts = [
        title,
        WHY,
        "## Size\n\nThe forecast is true. Five in a hundred may be called wrong; for the alarm, five in a hundred over the"
        f" whole history, looked at every day.\n\n{size}",
        "## Near the threshold\n\nTolerance 0.1 at 0.5, width 0.2. Where the error is as large as the tolerance, at most five in a"
        f" hundred may pass, and fail.\n\n{near}",
        f"## Bands\n\nHow often a band of nominal 90 % holds the point at the median forecast.\n\n{cover}",
        f"## Power\n\nThe forecast is wrong; {max(worlds // 5, 2)} worlds each. A naive version that rejects everything has power"
        f" too, which is why size stands first.\n\n{power}",
    ]
    PAGE.write_text(results_page(texts, "cst"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
