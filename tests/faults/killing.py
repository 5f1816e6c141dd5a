"""Run the demo in children of one warm process, kill it where asked, and say what is on the disk afterwards.

The server has imported everything and computed nothing: no pool of threads runs, so a fork of it is a fresh
process that need not import again. It reads one JSON request a line and answers with one line. Tests and studies
speak to it through `Warm`; the process that asks computes nothing itself.

    python tests/faults/killing.py      # serve on standard input and output
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any

TABLE = "OWN.TEST/ohlcv-1d"
SECONDS = 300  # a child that takes longer is killed, and its test fails
ONCE = ("object", "ingest", "pin", "grant", "registration", "seal opened", "verdict", "refusal")
HEAVY = (
    "IPython.core.interactiveshell", "alembic.runtime.environment", "databento_dbn", "execnb.shell", "filelock",
    "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "matplotlib.pyplot", "mlflow",
    "mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking.client", "nbformat", "numba", "pandas", "papermill",
    "papermill.iorw", "polars", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet", "pyiceberg.catalog.sql",
    "pyiceberg.io.pyarrow", "regopy", "rich.progress", "scipy.optimize", "scipy.stats", "sklearn.isotonic",
    "sklearn.linear_model", "sklearn.pipeline", "sklearn.preprocessing", "skops.io", "sqlalchemy.dialects.sqlite",
    "tink.aead", "tink.streaming_aead", "yaml", "zstandard",
)  # fmt: skip
HARMLESS = ("python", "jemalloc_bg_thd", "polars-ooc-clea")  # threads that exist before anything is computed
QUIET = ("researchkit.dashboard", "researchkit.cli")  # pages and commands, which the demo does not need


# --- the stream -------------------------------------------------------------------------------


def two_years(sessions: int = 504, seed: int = 0, symbols: tuple[str, ...] = ("AAA", "BBB")) -> Any:
    """Bars of two related random walks on weekdays, prices to the cent."""
    import numpy as np
    import polars as pl

    from researchkit import frames

    rng, first = np.random.default_rng(seed), datetime(2010, 1, 4, tzinfo=UTC)
    days = [d for d in (first + timedelta(days=i) for i in range(sessions * 2)) if d.weekday() < 5][:sessions]
    common, parts = rng.standard_normal(sessions), []
    for symbol in symbols:
        moves = 0.0003 + 0.01 * (0.7 * common + 0.7 * rng.standard_normal(sessions))
        close = np.round(100 * np.exp(np.cumsum(moves)), 2)
        before = np.concatenate([[100.0], close[:-1]])
        opened = np.round(before * (1 + 0.002 * rng.standard_normal(sessions)), 2)
        columns = {
            "open": opened,
            "high": np.round(np.maximum(opened, close) * 1.003, 2),
            "low": np.round(np.minimum(opened, close) * 0.997, 2),
            "close": close,
            "volume": rng.integers(1000, 9999, sessions),
        }
        parts.append(pl.DataFrame({"ts_event": days, "symbol": symbol, **columns}))
    known = pl.col("ts_event").dt.offset_by("1d")
    bars = pl.concat(parts).with_columns(pl.col("ts_event").cast(frames.INSTANT))
    bars = bars.with_columns(ts_known=known, ts_published=known)
    return frames.conform(bars, frames.BARS)


def write_stream(path: Path, *, sessions: int = 504, seed: int = 0) -> None:
    """Write the stream as a vendor would send it."""
    from researchkit.data.encode import encode_bars

    path.write_bytes(encode_bars(two_years(sessions, seed), dataset=TABLE.partition("/")[0]))


# --- what a child does ------------------------------------------------------------------------


def run_demo(root: str, source: str | None, *, kernels: bool = False) -> dict[str, Any]:
    """Run the demo, in this process or with a kernel a job."""
    import researchkit
    from researchkit.jobs.runner import execute, execute_here
    from researchkit.operations.demo import demo

    ws = researchkit.open(root)
    return demo(ws, source=source, quiet=True, executing=execute if kernels else execute_here).to_dict()


def facts(root: str) -> dict[str, Any]:
    """Say what a finished workspace holds: `same` must not depend on kills, `faults` must be empty."""
    import researchkit

    ws = researchkit.open(root)
    trials = {t["id"]: t for t in ws.warehouse.rows("trials")}
    finished = {i for i, t in trials.items() if t["status"] == "finished"}
    statuses = [t["status"] for t in trials.values()]
    return {
        "same": _results(ws, trials, finished) | _data(ws) | _decisions(ws),
        "faults": [*_leftovers(ws), *_strangers(ws), *_unsaid(ws, trials), *_copies(ws, trials), *_links(ws)],
        "trials": {s: statuses.count(s) for s in ("finished", "failed", "aborted", "running")},
        "ledger": ws.ledger.head().seq,
    }


def _results(ws: Any, trials: dict[str, Any], finished: set[str]) -> dict[str, Any]:
    """What finished trials earned and forecast, as hashes."""
    from researchkit.experiments.warehouse import read_equity
    from researchkit.frames import EQUITY, logical_hash

    rows = [r for r in ws.warehouse.rows("results") if r["trial"] in finished]
    equities = {
        (
            trials[r["trial"]]["job"],
            r["strategy"],
            logical_hash(read_equity(ws.warehouse, r["trial"], strategy=r["strategy"]), EQUITY),
        )
        for r in rows
    }
    kept = [a for a in ws.warehouse.rows("artifacts") if a["trial"] in finished]
    logical = {
        (trials[a["trial"]]["job"], a["strategy"], a["name"], a["logical_hash"])
        for a in kept
        if a["logical_hash"]
    }
    said = {(trials[t]["job"], trials[t]["notebook_hash"]) for t in finished}
    return {
        "equities": sorted(equities),
        "streams": sorted(r["hash"] for r in ws.warehouse.rows("streams")),
        "logged": sorted({(trials[r["trial"]]["job"], r["strategy"], r["stream"]) for r in rows}),
        "artifacts": sorted(logical),
        "probabilities": sorted({h for _, _, name, h in logical if name == "probabilities.parquet"}),
        "jobs": sorted({job for job, _ in said}),
    }


def _data(ws: Any) -> dict[str, Any]:
    """What was delivered, ingested and pinned, each once."""
    kinds = [e.kind for e in ws.ledger.entries()]
    counted = "SELECT count(*) AS n, coalesce(sum(rows), 0) AS rows FROM ingests"
    return {
        "once": {k: kinds.count(k) for k in ONCE},
        "pins": {name: ws.pins.get(name).id for name in ws.pins.names()},
        "objects": sorted(o.sha256 for o in ws.raw.objects()),
        "ingested": ws.registry.one(counted),
        "files": ws.registry.one("SELECT count(*) AS n FROM lake_files")["n"],
        "rows": ws.lake.tables().select("table", "rows").to_dicts(),
    }


def _decisions(ws: Any) -> dict[str, Any]:
    """Campaigns and verdict words."""
    campaigns = ws.warehouse.rows("campaigns")
    words = [ws.gate.table(c["id"]).to_dicts() for c in campaigns]
    return {"campaigns": [(c["id"], c["name"], c["number"]) for c in campaigns], "verdicts": words}


def _leftovers(ws: Any) -> list[str]:
    """Temporary names that nobody holds any more."""
    found = [p for p in ws.root.rglob(".tmp-*")] + list((ws.root / "tmp").glob("job-*"))
    return [f"left over: {p.relative_to(ws.root)}" for p in sorted(found)]


def _strangers(ws: Any) -> list[str]:
    """Files of the raw zone and the lake that no register knows, and files that a register only claims."""
    held = {f"raw/{o.path}" for o in ws.raw.objects()}
    held |= {f"lake/{r['path']}" for r in ws.registry.rows("SELECT path FROM lake_files")}
    found = [*(ws.root / "raw" / "objects").rglob("*"), *(ws.root / "lake").rglob("*.parquet")]
    there = {str(p.relative_to(ws.root)) for p in found if p.is_file()}
    return [f"in no register: {p}" for p in sorted(there - held)] + [
        f"missing: {p}" for p in sorted(held - there)
    ]


def _unsaid(ws: Any, trials: dict[str, Any]) -> list[str]:
    """Trials whose beginning or end the ledger does not tell exactly once."""
    wrong = []
    for name, trial in trials.items():
        for kind in ("trial", "run"):
            said = ws.ledger.entries(kind=kind, subject=f"run:{name}")
            if len(said) != 1:
                wrong.append(f"{trial['job']} ({trial['status']}): {len(said)} ledger entries of kind {kind}")
        if trial["status"] == "running":
            wrong.append(f"{trial['job']}: still running")
    return wrong


def _copies(ws: Any, trials: dict[str, Any]) -> list[str]:
    """Trials that MLflow does not have exactly once."""
    with contextlib.closing(sqlite3.connect(ws.root / "mlflow.db")) as base:
        rows = base.execute("SELECT value, run_uuid FROM tags WHERE key = 'researchkit.run'").fetchall()
    held = sorted(rows)
    wanted = sorted((i, t["mlflow_run"]) for i, t in trials.items())
    return [] if held == wanted else [f"MLflow has {len(held)} runs of {len(wanted)} trials, or other ids"]


def _links(ws: Any) -> list[str]:
    """Every link from the verdict to the vendor's bytes that does not hold, and every raw object besides."""
    from researchkit.experiments.evidence import chain

    broken = [repr(link) for link in chain(ws, ws.warehouse.rows("campaigns")[0]["name"]) if not link.ok]
    broken += [f.words for f in ws.raw.verify() if not f.ok]
    return broken + [f.words for n in ws.pins.names() for f in ws.pins.findings(n) if not f.ok]


def run_sweep(root: str, size: int, stop: int = 0) -> dict[str, Any]:
    """Sweep in parts of two points, in this process; perhaps killed in the middle of a point."""
    import researchkit
    from researchkit.backtest import Costs
    from researchkit.backtest.searches import Grid
    from researchkit.backtest.sweep import best, sweep
    from researchkit.commands import sweeping
    from researchkit.experiments import sweeps
    from researchkit.experiments.trials import census, sharpes

    sweeps.patient = lambda: lambda rows: rows >= 2  # type: ignore[assignment]
    bars, ws = two_years(40, symbols=("AAA",)), researchkit.open(root)
    tried: list[int] = []

    def crossing(frame: Any, slow: int) -> Any:
        """Hold above a mean; the third point is nonsense."""
        tried.append(slow)
        if slow == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        if slow == 4:
            raise ZeroDivisionError("nonsense")
        close = frame["close"].to_numpy()
        return (close > close.cumsum() / range(1, close.size + 1) * (1 + slow / 1000)).astype(float)

    costs = Costs()
    with ws.run("sweep of crossing") as run:
        search = Grid({"slow": list(range(2, 2 + size))})
        begin = lambda **how: sweep(crossing, bars, search, costs=costs, **how)  # noqa: E731
        rows, runs = sweeping._tried(ws, run, bars, begin, {"strategy": "crossing", "size": size})
    others = sharpes(ws.warehouse, but=rows["stream"].drop_nulls().to_list())
    trials = {t["id"]: t for t in ws.warehouse.rows("trials")}
    return {
        "rows": rows.select("point", "slow", "sharpe", "stream", "error").to_dicts(),
        "tried": tried,
        "runs": len(runs),
        "kept": sorted(t["point"] for t in ws.warehouse.rows("tries")),
        "winner": repr(best(rows, others=others)),
        "streams": census(ws.warehouse).distinct_streams,
        "faults": _unsaid(ws, trials),
        "statuses": sorted(t["status"] for t in trials.values()),
    }


WORK = {
    "demo": run_demo,
    "facts": facts,
    "sweep": run_sweep,
    "stream": lambda path, **of: write_stream(Path(path), **of),
}


# --- the server -------------------------------------------------------------------------------


def warm_up() -> list[str]:
    """Import everything that the demo imports; returns the names of threads that make forking unsafe."""
    import importlib
    import pkgutil

    import researchkit

    for name in HEAVY:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(researchkit.__path__, "researchkit."):
        if not module.name.startswith(QUIET) and ".migrations." not in module.name:
            importlib.import_module(module.name)
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if not name.startswith(HARMLESS)]


def child(works: dict[str, Any], request: dict[str, Any], answer: Path, log: Path) -> None:
    """Do one piece of work and end, whatever happens, without waking the parent's clean-up."""
    code = 1
    try:
        signal.alarm(SECONDS)
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.update(request.get("env", {}))
        answer.write_text(json.dumps(works[request["work"]](**request["with"]), default=str))
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def serve() -> None:
    """Answer requests until the input ends."""
    say = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    print(json.dumps({"pools": warm_up()}), file=say, flush=True)
    with tempfile.TemporaryDirectory(prefix="killing-") as place:
        for line in sys.stdin:
            answer, log = Path(place) / "answer.json", Path(place) / "log.txt"
            answer.unlink(missing_ok=True)
            started = time.perf_counter()
            pid = os.fork()
            if pid == 0:
                child(WORK, json.loads(line), answer, log)
            _, status = os.waitpid(pid, 0)
            reply = {"code": os.waitstatus_to_exitcode(status), "seconds": time.perf_counter() - started}
            reply["answer"] = json.loads(answer.read_text()) if reply["code"] == 0 else None
            reply["log"] = log.read_text()[-4000:] if log.exists() else ""
            print(json.dumps(reply), file=say, flush=True)


# --- for those who ask ------------------------------------------------------------------------


class Warm:
    """A server and the questions that tests have for it."""

    def __init__(self, **environ: str) -> None:
        from researchkit.settings import environment

        names = {k: v for k, v in os.environ.items() if not k.startswith("RESEARCHKIT_")}
        env = {**names, **environment(), "MPLBACKEND": "agg", "PYTHONHASHSEED": "1", **environ}
        command = [sys.executable, "-W", "ignore", str(Path(__file__).absolute())]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True
        )
        assert self.process.stdout is not None
        self.pools: list[str] = json.loads(self.process.stdout.readline())["pools"]

    def ask(self, work: str, env: dict[str, str] | None = None, **given: Any) -> dict[str, Any]:
        """Have a child do one piece of work."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"work": work, "env": env or {}, "with": given}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server of warm processes ended with {self.process.wait(30)}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def demo(
        self, root: Path, source: Path | None, *, count: Path | None = None, kill: str = "", **how: Any
    ) -> dict[str, Any]:
        """Run the demo, counting the durable call sites, perhaps up to the one where it is killed."""
        env = {"RESEARCHKIT_KILL_COUNT": str(count)} if count else {}
        env |= {"RESEARCHKIT_KILL_AT": kill} if kill else {}
        return self.ask("demo", env, root=str(root), source=None if source is None else str(source), **how)

    def close(self) -> None:
        """End the server."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self.process.stdin.close()
        self.process.wait(30)

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def counted(count: Path) -> dict[str, int]:
    """How often each instant of each site was reached: `entry:before` → 56."""
    lines = count.read_text().splitlines() if count.exists() else []
    return {line: lines.count(line) for line in sorted(set(lines))}


def trials_at(root: Path) -> list[str]:
    """The statuses of all trials as they stand on the disk; looks at a copy, so that nothing is touched."""
    with tempfile.TemporaryDirectory() as place:
        for path in root.glob("warehouse.db*"):
            shutil.copy(path, place)
        try:
            with contextlib.closing(sqlite3.connect(Path(place) / "warehouse.db")) as base:
                return [row[0] for row in base.execute("SELECT status FROM trials ORDER BY started_ns")]
        except sqlite3.OperationalError:  # killed before there was such a table
            return []


@dataclass(frozen=True)
class Reference:
    """An untouched run: what it holds and how often it reached each call site."""

    same: dict[str, Any]
    hits: dict[str, int]
    order: list[str]  # the sites, in the order in which they are first reached
    trials: int
    seconds: float


def untouched(warm: Warm, root: Path, source: Path | None, **how: Any) -> Reference:
    """Run the demo once without a kill."""
    count = root.with_suffix(".count")
    done = warm.demo(root, source, count=count, **how)
    if done["code"] != 0:
        raise RuntimeError(f"the demo fails without any kill:\n{done['log']}")
    hits = counted(count)
    order = list(dict.fromkeys(line.partition(":")[0] for line in count.read_text().splitlines()))
    found = warm.ask("facts", root=str(root))
    if found["code"] != 0:
        raise RuntimeError(f"an untouched workspace cannot be read:\n{found['log']}")
    if found["answer"]["faults"]:
        raise RuntimeError(f"faults without any kill: {found['answer']['faults']}")
    count.unlink()
    trials = sum(found["answer"]["trials"].values())
    return Reference(found["answer"]["same"], hits, order, trials, done["seconds"])


def killed(
    warm: Warm,
    root: Path,
    source: Path | None,
    *,
    at: str | list[str],  # "entry:before:17"; several: each rerun is killed again at the next
    reference: Reference,
    **how: Any,
) -> list[str]:  # what is wrong; empty when kills and rerun left what an untouched run leaves
    """Kill the demo at one instant, or at one after the other, run it again to the end, and compare."""
    try:
        for instant in [at] if isinstance(at, str) else at:
            if missed := _killed_at(instant, warm, root, source, how):
                return [missed]
        before = trials_at(root)
        again = warm.demo(root, source, **how)
        if again["code"] != 0:
            return [f"does not run again: {again['log'][-1500:]}"]
        found = warm.ask("facts", root=str(root))
        if found["code"] != 0:
            return [f"cannot be read: {found['log'][-1500:]}"]
        return _wrong(found["answer"], before, reference)
    finally:
        remove(root)


def _killed_at(at: str, warm: Warm, root: Path, source: Path | None, how: dict[str, Any]) -> str:
    """Run the demo until it is killed; returns what went otherwise."""
    count = root.with_suffix(".count")
    try:
        run = warm.demo(root, source, count=count, kill=at, **how)
        died = run["code"] in ((-signal.SIGKILL, 1) if how.get("kernels") else (-signal.SIGKILL,))
        if died and counted(count).get(at.rpartition(":")[0], 0) >= int(at.rpartition(":")[2]):
            return ""
        return f"was not killed at {at}, ended with {run['code']}: {run['log'][-500:]}"
    finally:
        count.unlink(missing_ok=True)


def _wrong(found: dict[str, Any], before: list[str], reference: Reference) -> list[str]:
    """Everything that differs from what an untouched run leaves, or is left half done."""
    wrong = list(found["faults"])
    for name, value in reference.same.items():
        if found["same"][name] != value:
            wrong.append(f"{name} differ: {_first(found['same'][name], value)}")
    trials = found["trials"]
    died = before.count("running") + before.count("failed") + before.count("aborted")
    if trials["aborted"] + trials["failed"] != died:
        wrong.append(f"{died} trials died, {trials['aborted']} are marked aborted")
    if sum(trials.values()) != len(before) + reference.trials:
        wrong.append(
            f"{len(before)} + {reference.trials} trials were opened, {sum(trials.values())} are counted"
        )
    return wrong


def _first(got: Any, expected: Any) -> str:
    """Where two facts first differ."""
    if isinstance(got, dict) and isinstance(expected, dict):
        names = sorted(got.keys() | expected.keys())
        return next(
            f"{n}: {got.get(n)!r} for {expected.get(n)!r}" for n in names if got.get(n) != expected.get(n)
        )
    if isinstance(got, list) and isinstance(expected, list):
        pairs = zip_longest(got, expected)
        return next(f"{g!r} for {e!r}" for g, e in pairs if g != e)
    return f"{got!r} for {expected!r}"


def remove(root: Path) -> None:
    """Remove a workspace with its immutable objects, finished or not."""
    from researchkit.security.durable import clear_immutable
    from researchkit.workspace import destroy

    if (root / "VERSION").is_file() and (root / "keys").is_dir():
        destroy(root, confirmed=root.name)
    elif root.is_dir():
        for path in root.rglob("*"):
            if path.is_file():
                clear_immutable(path)
        shutil.rmtree(root)


if __name__ == "__main__":
    serve()
