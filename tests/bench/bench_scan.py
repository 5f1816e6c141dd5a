"""One symbol-day out of a lake, item by item, beside reading its file directly.

    python tests/bench/bench_scan.py            # one JSON line a case
    python tests/bench/bench_scan.py 500000     # with so many trades a day

The peer is polars itself on the one file, with the same columns and the same filter: the least that must be done. The
production path adds policy, ledger, plan, the choice of versions and the contract's types. "cold" is the first question
of a process, which reads the table's metadata, plans, and hashes the file once.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
from measuring import case

from researchkit.context import Context, Principal, Resource, parse_table
from researchkit.data import tables
from researchkit.data.door import Door
from researchkit.data.ingest import Index, file_rows, symbol_rows
from researchkit.data.lake import Lake
from researchkit.data.layouts import layout_of, stored
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry, insert
from researchkit.frames import EXACT, INSTANT, TRADES
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
SYMBOLS, DAYS = 20, 2
TABLE, DAY = "XNAS.TEST/trades", 86_400 * 10**9
FIRST = int(datetime(2024, 1, 3, tzinfo=UTC).timestamp()) * 10**9
ME = Context(Principal("bench", ("data-engineer", "quant")))
GRANTS = '{"roles": {"quant": [{"action": "read", "resource": "*"}, {"action": "pin", "resource": "*"}]}}'


def trades(day: int, rows: int, symbols: int = SYMBOLS) -> pl.DataFrame:
    """A day of trades: walks of prices, clocks that never agree, all symbols mixed."""
    rng = np.random.default_rng(day)
    at = np.sort(rng.integers(0, DAY, rows)) + FIRST + day * DAY
    names = pl.Series([f"S{i:03}" for i in range(symbols)])
    frame = pl.DataFrame(
        {
            "ts_event": at, "symbol": names.gather(rng.integers(0, symbols, rows)),
            "sequence": np.arange(rows, dtype=np.uint32), "ordinal": np.arange(rows, dtype=np.uint64),
            "ts_recv": at + rng.integers(1_000, 200_000, rows),
            "price": 100_000 + np.cumsum(rng.integers(-3, 4, rows)), "size": rng.integers(1, 500, rows).astype(np.uint32),
            "side": pl.Series(["A", "B", "N"]).gather(rng.integers(0, 3, rows)), "flags": np.zeros(rows, np.uint8),
        }
    )  # fmt: skip
    clocks = [pl.col(n).cast(INSTANT) for n in ("ts_event", "ts_recv")]
    price = (pl.col("price").cast(pl.Decimal(18, 0)) / 100).cast(EXACT)
    known = [pl.max_horizontal("ts_event", "ts_recv").alias(n) for n in ("ts_known", "ts_published")]
    frame = frame.with_columns(*clocks, price).with_columns(known)
    return frame.select(list(TRADES.columns)).sort("ts_event", "symbol", "sequence", "ordinal")


def lake_of(root: Path, rows: int = ROWS, days: int = DAYS) -> SimpleNamespace:
    """A lake with some days of trades, written as ingest writes them."""
    install(root / "policy")
    (root / "policy" / "grants.json").write_text(GRANTS)
    registry = Registry(f"sqlite:///{root}/catalog.db")
    door = Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db"))
    raw = RawZone(root / "raw", registry=registry, keyring=Keyring(root / "keys"), door=door, immutable=False)
    lake, of = Lake(root / "lake", registry=registry, raw=raw, door=door), parse_table(TABLE)
    table, known = tables.make_table(lake.catalog, of), []
    for day in range(days):
        origin = f"{day:064x}"
        files = tables.write_files(table, stored(trades(day, rows), layout_of(of)), layout=layout_of(of), origin=origin)
        snapshot = tables.commit(table, files, raw_sha256=origin)
        paths = [f.file_path.removeprefix("lake://") for f in files]
        held = file_rows(root / "lake", paths, TABLE, origin)
        known = symbol_rows(root / "lake", paths, TABLE, known) or known
        done = {"raw_sha256": origin, "table_name": TABLE, "snapshot": snapshot, "rows": rows, "ingested_ns": 0, "held": rows}
        merge = insert("lake_symbols", known[0]).replace(
            "DO NOTHING", "(table_name, symbol) DO UPDATE SET last_ns = excluded.last_ns, rows = excluded.rows"
        )
        registry.write((insert("lake_files", held[0]), held), (merge, known), (insert("ingests", done), [done]))
    return SimpleNamespace(root=root, registry=registry, lake=lake, door=door, raw=raw, index=Index)


def timed(work: Callable[[], object], times: int = 15) -> float:
    """Milliseconds of the clock, the median."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return 1e3 * sorted(found)[times // 2]


def items(held: SimpleNamespace, columns: list[str]) -> None:
    """What one question consists of, by the clock, warm and cold."""
    of = Resource("XNAS.TEST", "trades", symbols=("S007",), start=FIRST, end=FIRST + DAY)
    lake = held.lake
    question = {"symbols": "S007", "start": FIRST, "end": FIRST + DAY, "context": ME}
    asked = lake.asked(TABLE, **question)
    quiet = lambda: [f for f in _quietly(asked, columns)]  # noqa: E731
    warm = {
        "policy": timed(lambda: held.door.ask("read", of, context=ME)),
        "ledger": timed(lambda: held.door.record("read", {"subject": f"table:{TABLE}"}, context=ME)),
        "plan": timed(lambda: (lake.reconcile(TABLE, context=ME), lake.span(asked.request), lake.files.newest(of))),
        "read": timed(quiet),
        "all": timed(lambda: lake.scan(TABLE, **question).select(columns).collect()),
    }
    fresh = Lake(held.root / "lake", registry=held.registry, raw=held.raw, door=held.door)
    cold = {}
    for name, work in (
        ("table and plan", lambda: fresh.asked(TABLE, **question)),
        ("hash of the file", lambda: fresh.files.check([p.path for p in asked.pieces], of)),
        ("all the rest", lambda: fresh.scan(TABLE, **question).select(columns).collect()),
    ):
        cold[name] = timed(work, times=1)
    for state, found in (("warm", warm), ("cold", cold)):
        said = ", ".join(f"{name} {ms:.1f}" for name, ms in found.items())
        print(f"  {state}, ms by the clock: {said}", file=sys.stderr)


def _quietly(asked: object, columns: list[str]) -> list[pl.DataFrame]:
    """The reading alone, without the door."""
    from researchkit.data.scan import read

    return list(read(asked.access, asked.request, columns))  # type: ignore[attr-defined]


def main() -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as folder:
        held = lake_of(Path(folder))
        columns = ["ts_event", "symbol", "price", "size"]
        question = {"symbols": "S007", "start": FIRST, "end": FIRST + DAY, "context": ME}
        asked = held.lake.asked(TABLE, **question)
        [piece] = asked.pieces
        path, size = held.root / "lake" / piece.path, f"{ROWS:,} trades a day, {SYMBOLS} symbols"
        only = pl.col("symbol") == "S007"
        items(held, columns)
        for name, wanted in (("4 columns", columns), ("all columns", list(TRADES.columns))):
            case(
                f"scan, one symbol-day, {name}: plan and read, warm",
                ours=lambda wanted=wanted: (held.lake.files.newest(asked.request.resource), _quietly(asked, wanted)),
                peer=lambda wanted=wanted: pl.scan_parquet(path).filter(only).select(wanted).collect(),
                versus="polars on its file", size=size,
            )  # fmt: skip
        case(
            "scan, one symbol-day, 4 columns: with policy and ledger, warm",
            ours=lambda: held.lake.scan(TABLE, **question).select(columns).collect(),
            peer=lambda: pl.scan_parquet(path).filter(only).select(columns).collect(),
            versus="polars on its file", size=size,
        )  # fmt: skip
        case(
            "scan, one day of all symbols, 4 columns, in order of time",
            ours=lambda: held.lake.scan(TABLE, start=FIRST, end=FIRST + DAY, context=ME).select(columns).collect(),
            peer=lambda: pl.scan_parquet(path).select(columns).sort("ts_event", "symbol").collect(),
            versus="polars on its file, sorted", size=size, rounds=3,
        )  # fmt: skip


if __name__ == "__main__":
    main()
