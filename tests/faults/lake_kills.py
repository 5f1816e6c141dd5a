"""Tend a lake, die at an instant, tend it again: every instant in a process of its own.

A test runs this file as a program, so that it forks from a process without threads; it prints what was otherwise than
it must be, as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl

from researchkit.context import Context, Principal, parse_table
from researchkit.data import tables
from researchkit.data.door import Door
from researchkit.data.encode import encode_bars
from researchkit.data.lake import Lake
from researchkit.data.pins import Pins
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.data.storage import Storage
from researchkit.data.upkeep import Upkeep
from researchkit.frames import BARS, INSTANT, conform, logical_hash
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

ME = Context(Principal("engineer3", ("data-engineer", "quant", "custodian")))
TABLE = "DEMO/ohlcv-1d"
LATER = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * 10**9
WARM = (
    "pyiceberg.io.pyarrow", "pyarrow.parquet", "sqlalchemy.dialects.sqlite", "alembic.runtime.migration",
    "alembic.runtime.environment", "regopy", "tink.streaming_aead", "filelock", "databento_dbn", "tqdm.auto",
    "researchkit.data.manifests", "researchkit.data.merging",
)  # fmt: skip


def sessions(first: int, last: int, symbol: str = "SPX") -> pl.DataFrame:
    """Daily bars of one symbol; the price follows the day."""
    days = [datetime(2003, 12, 14, tzinfo=UTC) + timedelta(days=d) for d in range(first, last)]
    prices = {name: [1000.0 + d for d in range(first, last)] for name in ("open", "high", "low", "close")}
    frame = pl.DataFrame({"ts_event": days, "symbol": symbol, **prices, "volume": 5})
    frame = frame.with_columns(pl.col("ts_event").cast(INSTANT))
    later = pl.col("ts_event").dt.offset_by("1d")
    return conform(frame.with_columns(ts_known=later, ts_published=later), BARS)


def house(root: Path, registry: Registry | None = None, storage: Storage | None = None) -> SimpleNamespace:
    """A lake with everything it needs; `bring` puts and ingests."""
    install(root / "policy")
    registry = Registry(f"sqlite:///{root}/catalog.db") if registry is None else registry
    door = Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db"))
    raw = RawZone(root / "raw", registry=registry, keyring=Keyring(root / "keys"), door=door, immutable=False)
    lake = Lake(root / "lake" if storage is None else storage, registry=registry, raw=raw, door=door)
    pins = Pins(registry=registry, lake=lake, door=door)
    parts = {"storage": lake.storage, "registry": registry, "door": door, "catalog": lambda: lake.catalog}
    upkeep = Upkeep(**parts, clock=lambda: LATER)

    def bring(name: str, frame: pl.DataFrame, key: str = "demo") -> str:
        put = raw.put(encode_bars(frame, dataset="DEMO"), name=name, key=key, context=ME)
        return str(lake.ingest(put.sha256, context=ME).raw_sha256)

    return SimpleNamespace(lake=lake, pins=pins, upkeep=upkeep, bring=bring, registry=registry, door=door)


def seen(ws: SimpleNamespace, **given: Any) -> str:
    """The hash of what a reader gets."""
    return logical_hash(ws.lake.scan(TABLE, context=ME, **given).collect(), BARS)


def make(root: Path) -> None:
    """Five deliveries that meet at a new year, one of another licence, the first two pinned."""
    ws = house(root)
    for number, first in enumerate((0, 10, 20, 30)):
        ws.bring(f"delivery {number}", sessions(first, first + 10))
        if number == 1:
            ws.pins.create("early", [TABLE], context=ME)
    ws.bring("other licence", sessions(40, 50), key="other")


def tend(root: Path) -> None:
    """Everything that upkeep does to a table."""
    ws = house(root)
    ws.upkeep.compact(TABLE, context=ME)
    ws.upkeep.expire(TABLE, keep=1, context=ME)
    ws.upkeep.rewrite(TABLE, context=ME)
    ws.upkeep.orphans(TABLE, context=ME, older=0)


def report(root: Path) -> dict[str, Any]:
    """What must be the same however often it was killed."""
    ws = house(root)
    rows = seen(ws)
    index = {r["path"] for r in ws.registry.rows("SELECT path FROM lake_files WHERE retired_ns IS NULL")}
    live = set(tables.planned(ws.lake.table(parse_table(TABLE))))
    objects = [
        r["raw_sha256"] for r in ws.registry.rows("SELECT raw_sha256 FROM ingests ORDER BY ingested_ns")
    ]
    return {
        "rows": rows, "early": seen(ws, pin="early"), "objects": seen(ws, objects=objects),
        "index": index == live, "files": len(live), "verify": [f.words for f in ws.lake.verify() if not f.ok],
        "symbols": ws.lake.symbols(TABLE)["rows"].to_list(), "chain": ws.door.ledger.verify().ok,
    }  # fmt: skip


def orphans(root: Path) -> list[str]:
    """What upkeep would still remove."""
    return [o.path for o in house(root).upkeep.orphans(TABLE, context=ME, older=0, dry=True)]


def finish(root: Path) -> dict[str, Any]:
    """Look at what was left, tend it to the end, look again."""
    middle = report(root)
    tend(root)
    return {"middle": middle, "after": report(root), "left": orphans(root)}


def in_child(work: Any, root: Path, env: dict[str, str] | None = None) -> tuple[int, Any]:
    """Do one piece of work in a fork of this process; its exit code, and what it returned."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.environ.update(env or {})
        code = 1
        try:
            signal.alarm(60)
            os.write(write, json.dumps(work(root)).encode())
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, json.loads(said) if code == 0 else None


def killed(folder: Path, instants: list[str]) -> dict[str, Any]:
    """Kill upkeep at instants, default: each of them; look, finish it, look again."""
    import importlib

    for name in WARM:
        importlib.import_module(name)
    whole, wrong = folder / "whole", dict[str, Any]()
    in_child(make, whole)
    before = in_child(report, whole)[1]
    calm = Path(shutil.copytree(whole, folder / "calm"))
    count = folder / "calm.count"
    in_child(tend, calm, {"RESEARCHKIT_KILL_COUNT": str(count), "RESEARCHKIT_KILL_AT": "none"})
    wanted = in_child(report, calm)[1]
    lines = [
        line for line in count.read_text().splitlines() if line.partition(":")[0] in ("upkeep", "commit")
    ]
    every = [f"{line}:{lines[: i + 1].count(line)}" for i, line in enumerate(lines)]
    for at in instants or every:
        root = Path(shutil.copytree(whole, folder / at.replace(":", "-")))
        env = {"RESEARCHKIT_KILL_COUNT": f"{root}.count", "RESEARCHKIT_KILL_AT": at}
        code = in_child(tend, root, env)[0]
        again, told = in_child(finish, root)
        told = told or {"middle": {}, "after": {}, "left": []}
        same = ("rows", "early", "objects", "verify", "symbols", "chain", "index")
        other = {k: told["middle"].get(k) for k in same if told["middle"].get(k) != before[k]}
        other |= {k: told["after"].get(k) for k in wanted if told["after"].get(k) != wanted[k]}
        if other or (code, again) != (-signal.SIGKILL, 0) or told["left"]:
            wrong[at] = {"codes": [code, again], "told": other, "left": told["left"]}
        shutil.rmtree(root)
    return {"instants": every, "wrong": wrong, "before": before, "wanted": wanted}


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    print(json.dumps(killed(Path(sys.argv[1]), sys.argv[2:])))
