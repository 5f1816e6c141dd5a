"""A process killed at each durable call site of this room, and run again: the same rows, none twice."""

import json
import os
import subprocess
import sys

import pytest

from researchkit.experiments.sealing import find_campaign
from researchkit.experiments.warehouse import Warehouse, read_equity
from researchkit.frames import EQUITY, logical_hash
from researchkit.security.ledger import Ledger

WORK = """
import sys
from datetime import UTC, datetime
from pathlib import Path
import numpy as np, polars as pl
from researchkit.context import Context, Principal
from researchkit.data.archive import Archive
from researchkit.experiments.campaign import Gate
from researchkit.experiments.registration import Entrant, Registration, Sealed
from researchkit.experiments.runs import Runs
from researchkit.experiments.warehouse import Warehouse
from researchkit.frames import EQUITY, INSTANT, conform
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

folder = Path(sys.argv[1])
warehouse, ledger = Warehouse(f"sqlite:///{folder/'warehouse.db'}"), Ledger(f"sqlite:///{folder/'ledger.db'}")
me = Context(Principal("quant7", ("quant",)))
runs = Runs(warehouse=warehouse, archive=Archive(folder / "archive"), ledger=ledger, context=me)
runs.sweep()
rng = np.random.default_rng(5)
days = pl.datetime_range(datetime(2011, 1, 1, tzinfo=UTC), datetime(2011, 12, 31, tzinfo=UTC), "1d", eager=True)
start = int(days.cast(INSTANT).cast(pl.Int64)[199])

def earned(net):
    level, zero = 1e6 * (1 + np.cumsum(net)), np.zeros(len(net))
    return conform(pl.DataFrame({"ts_known": days, "cash": zero, "position_value": level, "equity": level,
        "gross": net, "net": net, "turnover": zero, "costs": zero}), EQUITY)

base = 0.006 * rng.normal(size=365)
whole = {"baseline": earned(base), "honest": earned(base + 0.003 * rng.normal(size=365))}
entrants = {}
for name, equity in whole.items():
    with runs.start(name, hypothesis="H-1", pin="8c1d") as run:
        logged = run.log(strategy=name, result=equity.head(200), artifacts={"note.txt": b"ok"})
    entrants[name] = Entrant(name, logged.stream, "8c1d", code="c0" * 32, source="50" * 32)
gate = Gate(warehouse=warehouse, ledger=ledger, policy=Policy(install(folder / "policy")), context=me)
sealed = Sealed("ab" * 32, "DEMO/ohlcv-1d", start, start + 10**18)
campaign = gate.register(Registration("kills", (entrants["honest"],), entrants["baseline"], (sealed,)))
gate.open_seal(campaign)
print(gate.decide(campaign, equities=whole, code="c0" * 32)[0].verdict)
"""

SITES = ("migration", "run", "archive", "warehouse", "entry", "campaign")


def _work(folder, **environ):
    return subprocess.run(
        [sys.executable, "-c", WORK, str(folder)],
        env={**os.environ, **environ}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def _hits(folder):
    """Count how often each instant of each site was reached in an undisturbed run."""
    count = folder / "count"
    done = _work(folder, RESEARCHKIT_KILL_COUNT=str(count))
    assert done.returncode == 0, done.stderr
    lines = count.read_text().splitlines()
    return {line: lines.count(line) for line in sorted(set(lines))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, _hits(folder)


def _state(folder):
    warehouse, ledger = (
        Warehouse(f"sqlite:///{folder / 'warehouse.db'}"),
        Ledger(f"sqlite:///{folder / 'ledger.db'}"),
    )
    ledger.verify()
    finished = [r for r in warehouse.rows("trials", status="finished")]
    streams = sorted(r["hash"] for r in warehouse.rows("streams"))
    equities = {
        (t["title"], logical_hash(read_equity(warehouse, t["id"], strategy=t["title"]), EQUITY))
        for t in finished
    }
    verdicts = [json.loads(r["body"]) for r in warehouse.rows("verdicts")]
    numbers = [(v["verdict"], v["numbers"]) for v in verdicts]
    kinds = [e.kind for e in ledger.entries()]
    once = {k: kinds.count(k) for k in ("registration", "seal opened", "verdict")}
    return streams, equities, numbers, find_campaign(warehouse, "kills").number, once


@pytest.mark.parametrize("instant", ["before", "after"])
@pytest.mark.parametrize("site", SITES)
def test_killed_and_run_again(site, instant, undisturbed, tmp_path):
    reference, hits = undisturbed
    reached = hits.get(f"{site}:{instant}", 0)
    assert reached > 0, f"{site}:{instant} was never reached"
    n = reached if site in ("campaign", "entry") else (reached + 1) // 2
    killed = _work(
        tmp_path, RESEARCHKIT_KILL_COUNT=str(tmp_path / "count"), RESEARCHKIT_KILL_AT=f"{site}:{instant}:{n}"
    )
    assert killed.returncode == -9, killed.stderr
    again = _work(tmp_path)
    assert again.returncode == 0, again.stderr
    assert _state(tmp_path) == _state(reference)


@pytest.mark.parametrize("n", range(1, 4))
def test_killed_between_ledger_and_warehouse_of_a_campaign(n, undisturbed, tmp_path):
    reference, hits = undisturbed
    assert hits["campaign:before"] == 3
    environ = {
        "RESEARCHKIT_KILL_COUNT": str(tmp_path / "count"),
        "RESEARCHKIT_KILL_AT": f"campaign:before:{n}",
    }
    assert _work(tmp_path, **environ).returncode == -9
    assert _work(tmp_path).returncode == 0
    assert _state(tmp_path) == _state(reference)


def test_the_killed_trial_is_marked_aborted(tmp_path):
    environ = {"RESEARCHKIT_KILL_COUNT": str(tmp_path / "count"), "RESEARCHKIT_KILL_AT": "warehouse:after:1"}
    assert _work(tmp_path, **environ).returncode == -9
    assert _work(tmp_path).returncode == 0
    warehouse = Warehouse(f"sqlite:///{tmp_path / 'warehouse.db'}")
    status = sorted(t["status"] for t in warehouse.rows("trials"))
    assert status == ["aborted", "finished", "finished"]
    assert warehouse.count("streams") == 2
