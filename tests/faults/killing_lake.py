"""Order a lake about, die at an instant, do the same again: every instant in a process of its own.

A life is one script over a real workspace: two days of trades in one commit, a pin, four small files of bars, a
restatement of the first day, compaction, lists sorted again, snapshots forgotten, files that nobody needs removed, a
second pin. Each step can be done again. A life that was killed and then lived again must leave what an untouched one
leaves. A test runs this file as a program, so that it forks from a process that has computed nothing.

    echo '{"every": true}' | python tests/faults/killing_lake.py
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from killing import HARMLESS, HEAVY

import researchkit
from researchkit.data.encode import encode
from researchkit.data.envelope import layout
from researchkit.security.durable import clear_immutable

TICKS, BARS = "TEST.TICKS/trades", "TEST.BARS/ohlcv-1m"
DAY = 86_400 * 10**9
START = 1_723_075_200 * 10**9  # 2024-08-08
IDS = {"AAA": 1, "BBB": 2}
PUBLISHED = datetime(2024, 8, 12, 16, 30, tzinfo=UTC)
SITES = ("object", "ingest", "commit", "pin", "upkeep")


# --- what the vendor sends --------------------------------------------------------------------


def trades(day: int, *, cancelled: int | None = None, rows: int = 400) -> bytes:
    """A day of trades of two symbols; sequence numbers repeat; perhaps without one of them."""
    rng = np.random.default_rng(day)
    records = np.zeros(rows, layout("trades"))
    at = np.sort(rng.integers(0, DAY // 2, rows)) + START + day * DAY
    records["ts_event"], records["ts_recv"] = at, at + rng.integers(100, 90_000, rows)
    records["instrument_id"] = rng.integers(1, 3, rows)
    records["price"] = (100 + np.cumsum(rng.integers(-1, 2, rows))) * 10**9
    records["size"], records["sequence"] = rng.integers(1, 50, rows), np.arange(rows) // 3
    records["action"], records["side"] = b"T", rng.choice([b"A", b"B", b"N"], rows)
    kept = records if cancelled is None else np.delete(records, cancelled)
    span = START + day * DAY, START + (day + 1) * DAY
    return encode(kept, dataset="TEST.TICKS", schema="trades", ids=IDS, span=span)


def minutes(part: int, rows: int = 60) -> bytes:
    """An hour of minute bars of two symbols."""
    records = np.zeros(rows * 2, layout("ohlcv-1m"))
    at = START + np.repeat(np.arange(part * rows, (part + 1) * rows), 2) * 60 * 10**9
    records["ts_event"], records["instrument_id"] = at, np.tile([1, 2], rows)
    for name, off in (("open", 0), ("high", 2), ("low", -2), ("close", 1)):
        records[name] = (100 + off) * 10**9
    records["volume"] = 10
    return encode(
        records, dataset="TEST.BARS", schema="ohlcv-1m", ids=IDS, span=(int(at[0]), int(at[-1]) + 60 * 10**9)
    )


# --- a life -----------------------------------------------------------------------------------


def put(ws: Any, content: bytes, name: str, table: str) -> str:
    """Bring a file into the raw zone, once."""
    return str(ws.raw.put(content, name=name, key="test", table=table).sha256)


def life(root: str) -> None:
    """The whole script."""
    ws = researchkit.open(root)
    days = [put(ws, trades(day), f"ticks-{day}.trades.dbn.zst", TICKS) for day in range(2)]
    ws.lake.ingest_many(days)
    if "before" not in ws.pins.names():  # else an earlier attempt made it, on the data of that time
        ws.pins.create("before", [TICKS])
    for part in range(4):
        ws.lake.ingest(put(ws, minutes(part), f"bars-{part}.ohlcv-1m.dbn.zst", BARS))
    again = put(ws, trades(0, cancelled=100), "ticks-0.trades.dbn.zst", TICKS)
    ws.lake.ingest(again, published=PUBLISHED)
    ws.upkeep.compact(BARS)
    for table in (TICKS, BARS):
        ws.upkeep.rewrite(table)
        ws.upkeep.expire(table, keep=2)
        ws.upkeep.orphans(table, older=0)
    ws.pins.create("after", [TICKS, BARS])


def facts(root: str) -> dict[str, Any]:
    """What a finished life leaves, in words that are the same for all, and what is wrong with it."""
    from researchkit.context import parse_table
    from researchkit.data.layouts import layout_of
    from researchkit.frames import logical_hash

    ws = researchkit.open(root)
    read = {
        "ticks now": (TICKS, {}), "ticks then": (TICKS, {"asof": "2024-08-11"}), "bars": (BARS, {}),
        "ticks of the first pin": (TICKS, {"pin": "before"}), "bars of the second pin": (BARS, {"pin": "after"}),
    }  # fmt: skip
    hashes = {}
    for words, (table, given) in read.items():
        rows = ws.lake.scan(table, **given).collect()
        hashes[words] = [rows.height, logical_hash(rows, layout_of(parse_table(table)).frame)]
    kinds = [entry.kind for entry in ws.ledger.entries()]
    rows = ws.registry.rows("SELECT path, retired_ns FROM lake_files ORDER BY path")
    live = {r["path"] for r in rows if r["retired_ns"] is None}
    there = {f.path for f in ws._lake.storage.list() if f.path.endswith(".parquet")}
    planned = {p for t in (TICKS, BARS) for p in _planned(ws, t)}
    faults = [f"in the table and not in the index, or the reverse: {p}" for p in sorted(planned ^ live)]
    faults += [f"in no index: {p}" for p in sorted(there - {r["path"] for r in rows})]
    faults += [f"missing: {p}" for p in sorted(live - there)]
    faults += [f"never settled: {r['path']}" for r in rows if r["retired_ns"] == -1]
    faults += [f"left over: {p.relative_to(ws.root)}" for p in sorted(ws.root.rglob(".tmp-*"))]
    faults += [f"left over: {p.name}" for p in sorted((ws.root / "tmp").iterdir()) if "spool" in p.name]
    faults += [f.words for f in ws.lake.verify() if not f.ok]
    ws.ledger.verify()
    for name in ws.pins.names():
        faults += [f.words for f in ws.pins.findings(name) if not f.ok]
    same = {
        "hashes": hashes,
        "pins": {name: ws.pins.get(name).id for name in ws.pins.names()},
        "once": {kind: kinds.count(kind) for kind in ("object", "ingest", "pin")},
        "ingests": ws.registry.one("SELECT COUNT(*) AS n, SUM(rows) AS rows FROM ingests"),
        "restated": ws.registry.rows("SELECT raw_sha256, retracted, added FROM restatements"),
        "symbols": ws.registry.rows("SELECT table_name, symbol, rows FROM lake_symbols ORDER BY table_name, symbol"),
        "months": ws.registry.rows("SELECT table_name, symbol, month, rows FROM lake_months ORDER BY table_name, symbol"),
        "bars in files": len([p for p in live if "ohlcv" in p]),
    }  # fmt: skip
    return {"same": same, "faults": faults}


def _planned(ws: Any, table: str) -> list[str]:
    """The data files of a table's current snapshot."""
    from researchkit.context import parse_table
    from researchkit.data.fileio import relative

    found = ws._lake.table(parse_table(table))
    return [relative(task.file.file_path) for task in found.scan().plan_files()]


# --- lives ------------------------------------------------------------------------------------


def child(work: Callable[[], object], environment: dict[str, str]) -> int:
    """Run work in a process of its own and say how it ended."""
    if (pid := os.fork()) == 0:
        try:
            os.environ |= environment
            work()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def asked(root: Path, place: Path) -> dict[str, Any]:
    """The facts of a workspace, gathered by a process of its own."""
    answer = place / "facts.json"
    answer.unlink(missing_ok=True)
    child(lambda: answer.write_text(json.dumps(facts(str(root)), default=str)), {})
    found: dict[str, Any] = (
        json.loads(answer.read_text()) if answer.exists() else {"same": {}, "faults": ["no facts"]}
    )
    return found


def removed(root: Path) -> None:
    """Remove a workspace."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            clear_immutable(path)
    shutil.rmtree(root)


def granted(root: Path, site: dict[str, Any] | None = None) -> None:
    """A workspace whose owner may do what the script does, its lake and catalog perhaps on servers."""
    from researchkit.security.policy import grant
    from researchkit.security.secret import Secret

    root.mkdir(exist_ok=True)
    if site is not None:
        (root / "researchkit.toml").write_text("".join(f'{k} = "{v}"\n' for k, v in site["settings"].items()))
    ws = researchkit.open(root)
    for name, fields in (site or {"secrets": {}})["secrets"].items():
        ws.secrets.put(name, {k: Secret(v) for k, v in fields.items()})
    for action in ("read", "pin", "ingest", "upkeep"):
        for role in ws.principal.roles:
            grant(ws.root / "policy", role, action=action, resource="*")
    ws.registry.rows("SELECT 1")
    ws.ledger.append("begin", {}, ws.context)
    ws.keys.create("test")


def chosen(reached: list[str], every: bool) -> list[str]:
    """Every instant that a life reached, or of each kind the one in the middle."""
    kinds = [name for name in dict.fromkeys(reached) if name.partition(":")[0] in SITES]
    counts = {name: reached.count(name) for name in kinds}
    if every:
        return [f"{name}:{i}" for name in kinds for i in range(1, counts[name] + 1)]
    return [f"{name}:{(counts[name] + 1) // 2}" for name in kinds]


def lives(place: Path, every: bool, sites: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """An untouched life, and others that were killed at an instant and lived again; with sites, as many as there are."""
    shape = place / "shape"
    if not sites:
        child(lambda: granted(shape), {})

    def lived(number: int, at: str) -> tuple[int, Path, list[str]]:
        root, count = place / f"life-{number}", place / f"life-{number}.count"
        if sites:
            child(lambda: granted(root, sites[number]), {})
        else:
            shutil.copytree(shape, root)
        variables = {"RESEARCHKIT_KILL_COUNT": str(count), "RESEARCHKIT_KILL_AT": at}
        return child(lambda: life(str(root)), variables), root, count.read_text().split()

    status, root, reached = lived(0, "")
    yield {"at": "", "status": status, "reached": reached, **asked(root, place)}
    removed(root)
    picked = chosen(reached, every)
    picked = picked[:: -(-len(picked) // (len(sites) - 1))] if sites else picked
    for number, at in enumerate(picked, start=1):
        status, root, _ = lived(number, at)
        again = child(lambda r=root: life(str(r)), {})  # type: ignore[misc]
        yield {"at": at, "status": status, "again": again, **asked(root, place)}
        removed(root)


def warm_up() -> list[str]:
    """Import what the work imports; returns the names of threads that make forking unsafe."""
    for name in HEAVY:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(researchkit.__path__, "researchkit."):
        if (
            module.name.startswith(("researchkit.data.", "researchkit.security."))
            and "verifier" not in module.name
        ):
            importlib.import_module(module.name)
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if not name.startswith(HARMLESS)]


if __name__ == "__main__":
    task = json.load(sys.stdin)
    pools = warm_up()
    say = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    with tempfile.TemporaryDirectory(prefix="lake-lives-") as folder:
        found = list(lives(Path(folder), task["every"], task.get("sites", [])))
    print(json.dumps({"pools": pools, "lives": found}), file=say, flush=True)
