"""Ask the tests of calibration, in worlds where the answer is known, whether they keep their promises.

    make study-calibration

The page is written by this command and by nobody else. Every world has a forecast that drifts slowly and outcomes
that overlap; every test runs twice, as it is used and in a naive version that takes rows for independent. The naive
ones must fail, or the harness could not tell good from bad.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
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
from researchkit.calibration.choosing import CANDIDATES, choose
from researchkit.calibration.dependence import Lives, moving_together
from researchkit.calibration.diagonal import almost_diagonal
from researchkit.calibration.lines import bias, line, spiegelhalter
from researchkit.calibration.reliability import consistency

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "nbs" / "results" / "10_calibration.ipynb"
LEVEL = 0.05


@dataclass(frozen=True)
class World:
    """Forecasts and what happened, rows in time order."""

    p: NDArray[np.float64]
    y: NDArray[np.float64]
    true: NDArray[np.float64]  # the chance behind each outcome
    known: NDArray[np.int64]  # session of the decision
    ends: NDArray[np.int64]  # session by which the outcome is known
    series: NDArray[np.int64]  # number of the symbol

    @property
    def lives(self) -> Lives:
        """When each outcome is open."""
        return Lives(self.known, self.ends, self.series)


def drift(rng: np.random.Generator, n: int, width: int = 1) -> NDArray[np.float64]:
    """Slow normal series of variance one, shape (n, width)."""
    x = rng.normal(size=(n + 200, width))
    for i in range(1, len(x)):
        x[i] += 0.97 * x[i - 1]
    return x[200:] * np.sqrt(1 - 0.97**2)


@dataclass(frozen=True)
class Maker:
    """How the truth departs from the forecast, and how outcomes hang together."""

    name: str
    n: int = 600  # sessions
    open_for: int = 10  # sessions that an outcome stays open
    shift: float = 0.0  # added to the chance: the forecast is too low by it
    slope: float = 1.0  # of the log-odds: below 1 the forecast is too bold
    late: bool = False  # the departure begins at the middle
    symbols: int = 1  # that decide in every session, and move together by 0.6
    regimes: bool = False  # volatility jumps between 1 and 4
    barriers: bool = False  # outcomes end when one of two barriers is reached, after `open_for` at the latest
    centre: float = 0.5  # where the forecasts lie
    spells: int = 0  # forecasts come near the centre in so many spells only; 0: all the time
    tolerance: float = 0.1  # of the test near the threshold
    width: float = 0.2  # of its window
    at: float | None = None  # its threshold; None: the centre

    def world(self, seed: int) -> World:
        """One world."""
        rng = np.random.default_rng([seed, self.n, self.open_for])
        if self.barriers:
            return reached(rng, self)
        n, k, life = self.n, self.symbols, self.open_for
        p = expit(logit(self.centre) + 0.5 * drift(rng, n, k))
        if self.spells:
            away = (np.arange(n) * 2 * self.spells // n) % 2 == 0
            p[away] = expit(logit(p[away]) - 3)
        true = np.clip(expit(logit(p) * self.slope) + self.shift, 0.0005, 0.9995)
        if self.late:
            true[: n // 2] = p[: n // 2]
        common = np.sqrt(0.6) if k > 1 else 0.0
        shock = np.sqrt(1 - common**2) * rng.normal(size=(n + life - 1, k))
        shock += common * rng.normal(size=(n + life - 1, 1))
        size = np.ones(n + life - 1)
        if self.regimes:
            size = np.where(np.cumsum(rng.random(size.size) < 0.02) % 2 == 0, 1.0, 4.0)
        path, spread = np.cumsum(size[:, None] * shock, axis=0), np.cumsum(size**2)
        move = path[life - 1 :] - np.vstack([np.zeros((1, k)), path])[:n]
        total = spread[life - 1 :] - np.concatenate([[0.0], spread])[:n]
        y = (move / np.sqrt(total)[:, None] < ndtri(true)).astype(np.float64)
        known = np.repeat(np.arange(n), k)
        return World(p.ravel(), y.ravel(), true.ravel(), known, known + life, np.tile(np.arange(k), n))


def reached(rng: np.random.Generator, maker: Maker) -> World:
    """Coin tosses between two barriers that drift; 1 if the upper one is reached first, and in time."""
    n, life = maker.n, maker.open_for
    up, down = (np.clip(np.round(2.5 + drift(rng, n)[:, 0]), 1, 5).astype(int) for _ in range(2))
    walk = np.concatenate([[0], np.cumsum(rng.choice([-1, 1], n + life))])
    p, y, ends = np.empty(n), np.empty(n), np.empty(n, dtype=np.int64)
    for t in range(n):
        p[t] = _chance(up[t], down[t], life)
        gone = walk[t + 1 : t + life + 1] - walk[t]
        over = np.flatnonzero((gone >= up[t]) | (gone <= -down[t]))
        stop = int(over[0]) if over.size else life - 1
        y[t], ends[t] = float(gone[stop] >= up[t]), t + 1 + stop
    q = np.clip(p - maker.shift, 0.01, 0.99)  # the coins are what they are: here the forecast departs
    return World(q, y, p, np.arange(n), ends, np.zeros(n, dtype=np.int64))


@cache
def _chance(up: int, down: int, life: int) -> float:
    """The chance to reach `up` before `-down` within `life` fair tosses, exactly."""
    at, won = {0: 1.0}, 0.0
    for _ in range(life):
        step: dict[int, float] = {}
        for place, share in at.items():
            for to in (place - 1, place + 1):
                step[to] = step.get(to, 0.0) + share / 2
        won += step.pop(up, 0.0)
        step.pop(-down, None)
        at = step
    return won


Test = Callable[[World, bool], bool]


def rows_open(world: World, aware: bool) -> int:
    """Rows that one outcome stays open, as the report counts them; the naive one says 1."""
    return world.lives.overlap if aware else 1


def lives(world: World, aware: bool) -> Lives | None:
    """What hangs together; the naive one says nothing does."""
    return moving_together(world.lives, world.p, world.y) if aware else None


def _line_p(world: World, aware: bool) -> bool:
    found = line(world.p, world.y, overlap=rows_open(world, aware)).p_value
    return found is not None and found < LEVEL


def _looked_at_daily(world: World) -> bool:
    """The z test of every morning since the fiftieth."""
    gap, var = np.cumsum(world.y - world.p)[49:], np.cumsum(world.p * (1 - world.p))[49:]
    return bool((np.abs(gap) / np.sqrt(var) > norm.ppf(1 - LEVEL / 2)).any())


def _rang(world: World, aware: bool) -> bool:
    row = np.arange(world.p.size)
    known, ends = (world.known, world.ends) if aware else (row, row + 1)
    return alarm(world.p, world.y, known=known, ends=ends, level=LEVEL).rang


TESTS: dict[str, Test] = {
    "mean of y - p": lambda w, a: bias(w.p, w.y, overlap=rows_open(w, a)).p_value < LEVEL,
    "slope and intercept": _line_p,
    "Spiegelhalter": lambda w, a: spiegelhalter(w.p, w.y, overlap=rows_open(w, a)).p_value < LEVEL,
    "honest worlds, PAV": lambda w, a: (
        consistency(w.p, w.y, lives=lives(w, a), resamples=99, at=w.p[:1]).p_value < LEVEL
    ),
    "honest worlds, ECE": lambda w, a: ece(w.p, w.y, lives=lives(w, a), resamples=99).p_value < LEVEL,
    "alarm, at any time": _rang,
}


def answer(world: World, maker: Maker, aware: bool) -> str:
    """The verdict of the test near the threshold."""
    at = maker.centre if maker.at is None else maker.at
    terms = {"threshold": at, "width": maker.width, "tolerance": maker.tolerance}
    return almost_diagonal(world.p, world.y, overlap=rows_open(world, aware), **terms).verdict


def share(answers: Iterable[bool]) -> tuple[float, float, int]:
    """A rate, the upper end of its one-sided 95 % interval (Clopper and Pearson 1934), and the worlds."""
    found = list(answers)
    k, n = sum(found), len(found)
    return k / n, 1.0 if k == n else float(beta.ppf(0.95, k + 1, n - k)), n


def said(rate: tuple[float, float, int]) -> str:
    """A rate with its standard error."""
    return f"{rate[0]:.3f} ± {np.sqrt(max(rate[0] * (1 - rate[0]), 0.25 / rate[2]) / rate[2]):.3f}"


# --- what each section counts ---


WHO = {"aware": True, "naive": False}


def one(job: tuple[str, Maker, int]) -> dict[str, bool]:
    """Everything that one world answers."""
    kind, maker, seed = job
    world = maker.world(seed)
    if kind == "tests":
        found = {
            f"{name}|{who}": bool(test(world, a)) for name, test in TESTS.items() for who, a in WHO.items()
        }
        return found | {"z test every morning|naive": _looked_at_daily(world)}
    if kind == "near":
        said = {who: answer(world, maker, a) for who, a in WHO.items()}
        return {f"{word}|{who}": said[who] == word for word in ("pass", "fail") for who in WHO}
    if kind == "choice":
        given = {"known": world.known, "ends": world.ends, "block": world.lives.block}
        name = choose(world.p, world.y, **given).name
        return {f"{n}|aware": n == name for n in CANDIDATES}
    found, at = {}, np.sort(world.p)[[world.p.size // 2]]
    for who, a in WHO.items():
        band = curve_band(world.p, world.y, overlap=rows_open(world, a), cells=20, resamples=200)
        middle = band.row(band.height // 2, named=True)
        true = float(np.interp(middle["p"], np.sort(world.p), np.sort(world.true)))
        found[f"confidence band, middle|{who}"] = middle["low"] <= true <= middle["high"]
        honest = consistency(world.p, world.y, lives=lives(world, a), resamples=99, at=at)
        curve = np.interp(at[0], *_curve(world))
        found[f"consistency band, middle|{who}"] = bool(
            honest.band["low"][0] <= curve <= honest.band["high"][0]
        )
    return found


def _curve(world: World) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from researchkit.calibration.pav import pav

    found = pav(world.p, world.y)
    return found.p, found.rate


def count(
    kind: str, maker: Maker, worlds: int, pool: ProcessPoolExecutor | None
) -> dict[str, tuple[float, float, int]]:
    """The share of worlds in which each answer was yes; with KEEP=folder an interrupted study goes on where it was."""
    name = hashlib.sha256(f"{kind} {maker} {worlds}".encode()).hexdigest()[:16]
    kept = Path(os.environ["KEEP"]) / f"{name}.json" if "KEEP" in os.environ else None
    if kept is not None and kept.exists():
        return {
            k: share([True] * n + [False] * (worlds - n)) for k, n in json.loads(kept.read_text()).items()
        }
    jobs = [(kind, maker, seed) for seed in range(worlds)]
    answers = list(map(one, jobs) if pool is None else pool.map(one, jobs, chunksize=20))
    if kept is not None:
        kept.write_text(json.dumps({k: sum(a[k] for a in answers) for k in answers[0]}))
    return {k: share(a[k] for a in answers) for k in answers[0]}


TRUE = (
    Maker("independent", open_for=1),
    Maker("overlap 10"),
    Maker("overlap 20, 1,200 rows", n=1200, open_for=20),
    Maker("barrier exits, at most 20 sessions, 1,200 rows", n=1200, open_for=20, barriers=True),
    Maker("volatility in regimes, overlap 10", regimes=True),
    Maker("5 symbols that move together, overlap 10", n=300, symbols=5),
    Maker("5 in 100 happen, overlap 10, 2,000 rows", n=2000, centre=0.05),
)
WRONG = (
    Maker("too high by 0.1", shift=-0.1),
    Maker("too high by 0.2", shift=-0.2),
    Maker("too bold, slope 0.25", slope=0.25),
    Maker("too high by 0.2, 3,000 rows", n=3000, shift=-0.2),
    Maker("too high by 0.2 in the second half of 6,000", n=6000, shift=-0.2, late=True),
    Maker("barrier exits, too low by 0.2", n=1200, open_for=20, shift=0.2, barriers=True),
    Maker("5 symbols, too high by 0.2", n=600, symbols=5, shift=-0.2),
)
NEAR = (
    Maker("error at the tolerance, overlap 1", n=3000, open_for=1, shift=0.1),
    Maker("error at the tolerance, overlap 10", n=3000, shift=0.1),
    Maker("error at minus the tolerance, overlap 10", n=3000, shift=-0.1),
    Maker("at the tolerance, overlap 60, 1,200 rows", n=1200, open_for=60, shift=0.1),
    Maker("at the tolerance, 5 symbols", n=1000, symbols=5, shift=0.1),
    Maker("at the tolerance, barrier exits", n=3000, open_for=20, shift=0.1, barriers=True, centre=0.4),
    Maker("at the tolerance, volatility in regimes", n=3000, shift=0.1, regimes=True),
    Maker("at the tolerance, 1 in 100 happens", n=3000, shift=0.01, centre=0.01, tolerance=0.01, width=0.01),
    Maker(
        "at minus the tolerance, 3 in 100 happen",
        n=3000,
        shift=-0.01,
        centre=0.03,
        tolerance=0.01,
        width=0.02,
    ),
    Maker("at the tolerance, forecasts there in 6 spells", n=3000, shift=0.1, spells=6),
    Maker("at the tolerance, threshold at the edge", n=3000, shift=0.1, at=0.85),
    Maker("no error, overlap 1", n=3000, open_for=1),
    Maker("no error, overlap 10", n=3000),
    Maker("no error, overlap 10, 600 rows", n=600),
    Maker("twice the tolerance, overlap 10", n=3000, shift=-0.2),
)
CHOICE = (
    Maker("true, overlap 10, 2,000 rows", n=2000),
    Maker("too bold, slope 0.4, 2,000 rows", n=2000, slope=0.4),
    Maker("too high by 0.15, 2,000 rows", n=2000, shift=-0.15),
    Maker(
        "too high by 0.15 and too bold, independent, 2,000 rows", n=2000, open_for=1, shift=-0.15, slope=0.4
    ),
)


def table(kind: str, makers: tuple[Maker, ...], worlds: int, pool: ProcessPoolExecutor | None) -> str:
    """One section's numbers as Markdown: a row a question, two columns a world."""
    found = {m.name: count(kind, m, worlds, pool) for m in makers}
    for name, rates in found.items():
        print(name, {k: round(v[0], 3) for k, v in rates.items()}, flush=True)
    keys = [k.split("|") for rates in found.values() for k in rates]
    names, asked = list(dict.fromkeys(k[0] for k in keys)), [w for w in WHO if any(k[1] == w for k in keys)]
    head = "| world | answer | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names)
    lines = [
        f"| {world} | {who} | "
        + " | ".join(said(rates[f"{n}|{who}"]) if f"{n}|{who}" in rates else "" for n in names)
        + " |"
        for world, rates in found.items()
        for who in asked
    ]
    return "\n".join([head, *lines])


WHY = """Every world has forecasts that drift slowly, and outcomes decided by the moves of the sessions over which they are
open, so that neighbours share most of what decides them: sums of shocks, calm or in regimes of volatility; several symbols
that move together by 0.6; or a walk between two barriers, whose outcomes end early. Size is counted where the forecast is
the truth, power where it is not. *Aware* is the test as it is used; *naive* is the same test told that rows are
independent. Errors are standard errors of the simulation."""


def main() -> int:
    """Simulate, and write the page."""
    worlds = int(os.environ.get("WORLDS", "1000"))
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    with ProcessPoolExecutor(2) as pool:
        size = table("tests", TRUE, worlds, pool)
        near = table("near", NEAR, worlds, pool)
        cover = table("bands", TRUE, worlds, pool)
        power = table("tests", WRONG, max(worlds // 5, 2), pool)
        choice = table("choice", CHOICE, max(worlds // 5, 2), pool)
    title = f"# Do the tests of calibration keep their promises?\n\n> `make study-calibration`, {worlds:,} worlds, seeds 0 to {worlds - 1}, commit {commit}."
    few = max(worlds // 5, 2)
    texts = [
        title,
        WHY,
        "## Size\n\nThe forecast is true. Five in a hundred may be called wrong; for the alarm, five in a hundred over the"
        f" whole history, looked at every day. Where one in twenty happens, and where symbols move together, the errors of means are"
        f" up to two in a hundred too hopeful.\n\n{size}",
        "## Near the threshold\n\nTolerance 0.1 at 0.5, width 0.2; 0.01 where outcomes are rare. Where the error is as large as the"
        " tolerance, at most five in a hundred may pass, and fail. Where outcomes are rare, forecasts come in spells or lie on one"
        f" side of the threshold, the test is allowed to say that there is not enough.\n\n{near}",
        f"## Bands\n\nHow often a band of nominal 90 % holds the point at the median forecast. Both are a little narrow where few"
        " stretches of time stand alone, or outcomes are rare; they are for looking, and no verdict rests on them."
        f"\n\n{cover}",
        f"## Power\n\nThe forecast is wrong; {few} worlds each. A naive version that rejects everything has power"
        f" too, which is why size stands first.\n\n{power}",
        f"## Which calibrator is chosen\n\nThe share of {few} worlds in which each was the simplest within one standard error of the"
        f" best, in the order of simplicity. True forecasts should be left alone.\n\n{choice}",
    ]
    PAGE.write_text(results_page(texts, "cst"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
