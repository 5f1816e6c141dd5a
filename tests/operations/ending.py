"""A workspace of two licences that share a table, and the end of one of them: in this process, or killed in a child.

python tests/operations/ending.py FOLDER INSTANT …      # kill the end at each instant, finish it, say what is left
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import struct
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

TABLE = "DEMO/ohlcv-1d"
TELLTALE = 4711.25  # a price of the licence that ends, and of nobody else
WARM = (
    "alembic.runtime.environment", "alembic.runtime.migration", "alembic.script", "cryptography.hazmat.primitives.serialization",
    "databento_dbn", "filelock", "polars", "pyarrow.dataset", "pyarrow.parquet", "pyiceberg.catalog.sql",
    "pyiceberg.io.pyarrow", "regopy", "researchkit.experiments.runs", "researchkit.operations.destruction",
    "researchkit.operations.verify", "researchkit.workspace", "skops.io", "sqlalchemy.dialects.sqlite",
    "threadpoolctl", "tink.streaming_aead", "tqdm.auto",
)  # fmt: skip
ROLES = '{"users": {"*": ["custodian", "data-engineer", "quant"]}}'


def bars(first: datetime, close: float) -> Any:
    """Five days of one instrument."""
    import polars as pl

    from researchkit.frames import BARS, INSTANT, conform

    days = pl.datetime_range(first, first + timedelta(days=4), interval="1d", eager=True, time_zone="UTC")
    prices = {name: [close + i for i in range(5)] for name in ("open", "high", "low", "close")}
    later = pl.col("ts_event").dt.offset_by("1d")
    frame = pl.DataFrame({"ts_event": days.cast(INSTANT), "symbol": "TST", **prices, "volume": 5})
    return conform(frame.with_columns(ts_known=later, ts_published=later), BARS)


def trial(ws: Any, pin: str) -> str:
    """Look at a version, and log what holding it would have earned."""
    import polars as pl

    from researchkit.frames import EQUITY, conform

    with ws.run(f"hold {pin}") as run:
        seen = ws.bars(ws.pin(pin))
        flat = {n: [0.0] * 5 for n in ("cash", "net", "gross", "turnover", "costs")}
        level = {"position_value": seen["close"], "equity": seen["close"]}
        equity = conform(pl.DataFrame({"ts_known": seen["ts_known"], **flat, **level}), EQUITY)
        run.log(result=equity, artifacts={"note.txt": f"it closed at {level['equity'][0]}".encode()})
    return str(run.id)


def opened(root: Path) -> Any:
    """Open a workspace whose trials make no copy in MLflow."""
    import researchkit
    from researchkit.experiments.runs import Runs

    ws = researchkit.open(root)
    parts = {"warehouse": ws.warehouse, "archive": ws.archive, "ledger": ws.ledger}
    ws.runs = Runs(**parts, context=ws.context)
    return ws


def make(root: Path) -> dict[str, str]:
    """Buy under two licences, make a version and a trial of each; returns the trials."""
    from researchkit.data.encode import encode_bars

    ws = opened(root)
    (root / "policy" / "roles.json").write_text(ROLES)
    ws, trials = opened(root), {}
    for name, day, close in (("market", 3, TELLTALE), ("other", 17, 10.0)):
        data = encode_bars(bars(datetime(2013, 6, day, tzinfo=UTC), close), dataset="DEMO")
        kept = ws.raw.put(data, name=name, key=name)
        ws.lake.ingest(kept.sha256)
        ws.pins.create(name, [TABLE], objects=[kept.sha256])
        trials[name] = trial(ws, name)
    features = root / "tmp" / "features"
    features.mkdir(parents=True, exist_ok=True)
    for name in trials:
        (features / f"{'ab' * 12}-{ws.pins.get(name).id[:24]}-{'cd' * 32}.parquet").write_bytes(b"features")
    (root / "tmp" / "job-gone").mkdir()
    return trials


def left(root: Path) -> dict[str, Any]:
    """Say what a workspace in which `market` ended still holds."""
    import polars as pl

    from researchkit.operations.verify import verify

    ws = opened(root)
    runs = {row["title"].removeprefix("hold "): row["id"] for row in ws.warehouse.rows("trials")}
    links = {name: verify(ws, run) for name, run in runs.items()}
    told = (struct.pack(">d", TELLTALE), struct.pack("<d", TELLTALE), str(TELLTALE).encode())
    files = [p for p in root.rglob("*") if p.is_file()]
    return {
        "broken": [repr(link) for name in links for link in links[name] if not link.ok],
        "ended": {n: sum("ended with licence" in x.words for x in links[n]) for n in links},
        "telltale": [str(p.relative_to(root)) for p in files if any(t in p.read_bytes() for t in told)],
        "rows": ws.lake.scan(TABLE).collect()["close"].cast(pl.Float64).to_list(),
        "held": ws.lake.tables()["rows"].to_list(),
        "equity": {n: ws.warehouse.count("equity", trial=run) for n, run in runs.items()},
        "lake": sorted(p.name for p in (root / "lake").rglob("*.parquet")),
        "features": len(list((root / "tmp" / "features").iterdir())),
        "keys": [ws.keys.names(), sorted(ws.keys.destroyed())],
        "lines": [e.kind for kind in ("licence ends", "licence ended") for e in ws.ledger.entries(kind)],
        "chain": ws.ledger.verify().ok,
        "scratch": [p.name for p in (root / "tmp").glob("job-*")],
    }


def end(root: Path) -> None:
    """End one licence."""
    from researchkit.operations.destruction import destroy_licence

    destroy_licence(opened(root), "market", confirmed="market")


# --- in a child -------------------------------------------------------------------------------


def copied(root: Path, into: Path) -> Path:
    """A copy of a workspace; immutable flags do not travel."""
    return Path(shutil.copytree(root, into))


def in_child(work: Any, *given: Any, env: dict[str, str] | None = None) -> tuple[int, Any]:
    """Do one piece of work in a fork of this process, which has computed nothing; its exit code, and what it returned."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.environ.update(env or {})
        code = 1
        try:
            signal.alarm(60)
            os.write(write, json.dumps(work(*given)).encode())
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
    """Kill the end at each instant, finish it, and say what is left; "none" counts the instants without a kill."""
    for name in WARM:
        importlib.import_module(name)
    whole, found = folder / "whole", {}
    assert in_child(make, whole)[0] == 0
    for at in instants:
        root = copied(whole, folder / at.replace(":", "-"))
        count = root.with_suffix(".count")
        env = {"RESEARCHKIT_KILL_COUNT": str(count), "RESEARCHKIT_KILL_AT": at}
        first = in_child(end, root, env=env)[0]
        again = in_child(end, root)[0]
        seen = in_child(left, root)[1]
        lines = count.read_text().splitlines()
        found[at] = {"codes": [first, again], "left": seen, "instants": lines}
    return found


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    print(json.dumps(killed(Path(sys.argv[1]), sys.argv[2:])))
