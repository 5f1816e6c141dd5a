"""`moved` is reached by a planted winner whose every condition holds, and by nothing that lacks one of them."""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from researchkit import frames
from researchkit.backtest import Costs, fills
from researchkit.context import Context, Principal
from researchkit.errors import IntegrityError
from researchkit.experiments.campaign import Gate
from researchkit.experiments.proofs import CALIBRATION, TAIL, Bounds, Evidence
from researchkit.experiments.registration import Entrant, Registration, Sealed
from researchkit.experiments.warehouse import Warehouse
from researchkit.frames import EQUITY, logical_hash
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

CODE, DAYS, SEAL = "c0" * 32, 1000, 400
BOUNDS = {"bounds": asdict(Bounds(tolerance=0.15, width=0.3))}
TRIAL = {
    "job": "j", "title": "t", "principal": "quant7", "tier": "embedded", "status": "finished", "started_ns": 1,
    "parameters": "{}", "code": "{}", "environment": "{}", "process": "{}",
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """A market in which the challenger knows the day after tomorrow three times in five."""

    start: int
    baseline: fills.Result
    winner: fills.Result
    bold: fills.Result  # the winner at ten times the size
    loser: fills.Result  # another coin
    labels: pl.DataFrame
    p: pl.DataFrame


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(20260101)
    events = [datetime(2005, 1, 3, tzinfo=UTC) + timedelta(days=i) for i in range(DAYS)]
    ends = [d + timedelta(days=1) for d in events]
    earned = 0.01 * rng.standard_normal(DAYS)
    prices = dict.fromkeys(("open", "high", "low", "close"), 100 * np.exp(np.cumsum(earned)))
    stamps = {"ts_event": events, "symbol": "SPX", "ts_known": ends, "ts_published": ends, "volume": 1}
    bars = frames.conform(pl.DataFrame(stamps | prices), frames.BARS)
    n = DAYS - 2
    up = earned[2:] > 0
    guess = np.where(rng.uniform(size=n) < 0.62, up, ~up)

    def held(side: np.ndarray, size: float) -> fills.Result:
        wish = pl.DataFrame(
            {"ts_known": ends[:n], "symbol": "SPX", "target": size * np.where(side, 1.0, -1.0)}
        )
        return fills.simulate(
            bars, frames.conform(wish, frames.SIGNALS), costs=Costs(bps=0, half_spread_bps=0)
        )

    p = np.where(guess, 0.62, 0.38)
    rows = {"ts_known": ends[:n], "symbol": "SPX", "kind": "entry", "p_raw": p, "p": p, "fold": 0}
    known = {
        "ts_known": ends[:n],
        "symbol": "SPX",
        "ts_end": ends[2:],
        "label": up.astype(int),
        "weight": 1.0,
    }
    return World(
        int(np.datetime64(ends[SEAL - 1].replace(tzinfo=None), "ns").astype(int)),
        held(rng.uniform(size=n) < 0.5, 0.2), held(guess, 0.2), held(guess, 2.0), held(rng.uniform(size=n) < 0.5, 0.2),
        frames.conform(pl.DataFrame(known), frames.LABELS),
        frames.conform(pl.DataFrame(rows), frames.PROBABILITIES).filter(pl.col("ts_known") > ends[200]),
    )  # fmt: skip


def judged(folder, world, result, brought, bounds=BOUNDS, baseline=None):
    """The verdict on one challenger, from registration to the look."""
    start, baseline = world.start, baseline or Evidence(world.baseline)
    warehouse, ledger = Warehouse(f"sqlite:///{folder / 'w.db'}"), Ledger(f"sqlite:///{folder / 'l.db'}")
    both = {"baseline": world.baseline.equity, "rival": result.equity}
    before = pl.col("ts_known") <= pl.lit(start).cast(frames.INSTANT)
    streams = {n: logical_hash(e.filter(before), EQUITY) for n, e in both.items()}
    with warehouse.writing() as w:
        w.add("trials", [{"id": "7f3a", **TRIAL}], within={"id": "7f3a"})
        for name, stream in streams.items():
            w.stream(stream, strategy=name, trial="7f3a", now=1)
    me = Context(Principal("quant7", ("quant",)))
    gate = Gate(warehouse=warehouse, ledger=ledger, policy=Policy(install(folder / "policy")), context=me)

    def entrant(name):
        return Entrant(name, streams[name], "8c1d", code=CODE, source="50" * 32, parameters=bounds)

    sealed = Sealed("ab" * 32, "DEMO/ohlcv-1d", start, start + DAYS * 86_400 * 10**9)
    campaign = gate.register(Registration("planted", (entrant("rival"),), entrant("baseline"), (sealed,)))
    gate.open_seal(campaign)
    evidence = {"rival": brought, "baseline": baseline}
    found = gate.decide(campaign, equities=both, code=CODE, evidence={k: e for k, e in evidence.items() if e})
    again = gate.decide(campaign, equities=both, code=CODE, evidence={k: e for k, e in evidence.items() if e})
    assert again == found
    return found[0]


def failed(verdict):
    """The conditions that did not hold."""
    return [c.name for c in verdict.conditions if not c.held]


def test_a_planted_winner_moves(world, tmp_path):
    verdict = judged(tmp_path, world, world.winner, Evidence(world.winner, world.p, world.labels, 0.5))
    assert (verdict.verdict, failed(verdict)) == ("moved", [])


def test_a_winner_with_a_broken_tail_does_not(world, tmp_path):
    verdict = judged(tmp_path, world, world.bold, Evidence(world.bold, world.p, world.labels, 0.5))
    assert (verdict.verdict, failed(verdict)) == ("undecided", [TAIL])
    assert "would have cost 6" in next(c.words for c in verdict.conditions if c.name == TAIL)


@pytest.mark.parametrize("shift", [0.25, -0.25])
def test_a_winner_that_overstates_its_chances_does_not(world, tmp_path, shift):
    p = world.p.with_columns(pl.col("p") + shift, pl.col("p_raw") + shift)
    verdict = judged(tmp_path, world, world.winner, Evidence(world.winner, p, world.labels, 0.5 + shift))
    assert (verdict.verdict, failed(verdict)) == ("undecided", [CALIBRATION])


def test_too_few_forecasts_are_not_enough(world, tmp_path):
    few = world.p.tail(20)
    verdict = judged(tmp_path, world, world.winner, Evidence(world.winner, few, world.labels, 0.5))
    assert (verdict.verdict, failed(verdict)) == ("undecided", [CALIBRATION])


def test_forecasts_of_history_alone_prove_nothing(world, tmp_path):
    old = world.p.filter(pl.col("ts_known") <= pl.lit(world.start).cast(frames.INSTANT))
    verdict = judged(tmp_path, world, world.winner, Evidence(world.winner, old, world.labels, 0.5))
    assert failed(verdict) == [CALIBRATION]


@pytest.mark.parametrize("what", ["no bounds", "no evidence", "no forecasts"])
def test_who_does_not_say_or_bring_what_is_needed_fails(world, tmp_path, what):
    whole = Evidence(world.winner, world.p, world.labels, 0.5)
    brought = {"no bounds": whole, "no evidence": None, "no forecasts": Evidence(world.winner)}[what]
    verdict = judged(tmp_path, world, world.winner, brought, bounds={} if what == "no bounds" else BOUNDS)
    wanted = [CALIBRATION] if what == "no forecasts" else [CALIBRATION, TAIL]
    assert (verdict.verdict, failed(verdict)) == ("undecided", wanted)


def test_a_coin_that_is_calibrated_does_not_move(world, tmp_path):
    verdict = judged(tmp_path, world, world.loser, Evidence(world.loser, world.p, world.labels, 0.5))
    assert verdict.verdict != "moved"
    assert CALIBRATION not in failed(verdict)


def test_a_tamer_result_cannot_be_brought_instead(world, tmp_path):
    with pytest.raises(IntegrityError, match="is not the one that is judged"):
        judged(tmp_path, world, world.bold, Evidence(world.winner, world.p, world.labels, 0.5))
    flat = replace(world.bold, positions=world.bold.positions.with_columns(value=pl.col("value") * 0.1))
    (tmp_path / "b").mkdir()
    with pytest.raises(IntegrityError, match="positions"):
        judged(tmp_path / "b", world, world.bold, Evidence(flat, world.p, world.labels, 0.5))
