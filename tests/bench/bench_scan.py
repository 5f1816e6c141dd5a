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
from pathlib import Path

import polars as pl
from measuring import case

from researchkit.context import Resource
from researchkit.data.lake import Asked, Lake
from researchkit.data.scan import read
from researchkit.frames import TRADES as CONTRACT

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "servers"))

from tick_lake import DAY, ME, TRADES, Place, ns, walk

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
SYMBOLS, DAYS, FIRST = 20, 2, ns("2024-01-03")


def lake_of(root: Path) -> Place:
    """A lake with some days of trades, as ingest writes them."""
    held = Place(root)
    for day in range(DAYS):
        held.bring(walk(ROWS, FIRST + day * DAY, [f"S{n:03}" for n in range(SYMBOLS)], seed=day), f"day{day}")
    return held


def timed(work: Callable[[], object], times: int = 15) -> float:
    """Milliseconds of the clock, the median."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return 1e3 * sorted(found)[times // 2]


def quietly(asked: Asked, columns: list[str]) -> list[pl.DataFrame]:
    """The reading alone, without the door."""
    return list(read(asked.access, asked.request, columns))


def items(held: Place, columns: list[str]) -> None:
    """What one question consists of, by the clock, warm and cold."""
    of = Resource("XNAS.TEST", "trades", symbols=("S007",), start=FIRST, end=FIRST + DAY)
    lake = held.lake
    question = {"symbols": "S007", "start": FIRST, "end": FIRST + DAY, "context": ME}
    asked = lake.asked(TRADES, **question)
    warm = {
        "policy": timed(lambda: held.door.ask("read", of, context=ME)),
        "ledger": timed(lambda: held.door.record("read", {"subject": f"table:{TRADES}"}, context=ME)),
        "plan": timed(
            lambda: (lake.reconcile(TRADES, context=ME), lake.span(asked.request), lake.files.newest(of))
        ),
        "read": timed(lambda: quietly(asked, columns)),
        "all": timed(lambda: lake.scan(TRADES, **question).select(columns).collect()),
    }
    fresh = Lake(held.root / "lake", registry=held.registry, raw=held.raw, door=held.door)
    cold = {
        name: timed(work, times=1)
        for name, work in (
            ("table and plan", lambda: fresh.asked(TRADES, **question)),
            ("hash of the file", lambda: fresh.files.check([p.path for p in asked.pieces], of)),
            ("all the rest", lambda: fresh.scan(TRADES, **question).select(columns).collect()),
        )
    }
    for state, found in (("warm", warm), ("cold", cold)):
        said = ", ".join(f"{name} {ms:.1f}" for name, ms in found.items())
        print(f"{state}, ms by the clock: {said}", file=sys.stderr)


def main() -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as folder:
        held = lake_of(Path(folder))
        some, every = ["ts_event", "symbol", "price", "size"], list(CONTRACT.columns)
        question = {"symbols": "S007", "start": FIRST, "end": FIRST + DAY, "context": ME}
        asked = held.lake.asked(TRADES, **question)
        [piece] = asked.pieces
        path, size = held.root / "lake" / piece.path, f"{ROWS:,} trades a day, {SYMBOLS} symbols"
        only, day = pl.col("symbol") == "S007", {"start": FIRST, "end": FIRST + DAY, "context": ME}
        items(held, some)
        for name, wanted in (("4 columns", some), ("all columns", every)):
            case(
                f"scan, one symbol-day, {name}: plan and read, warm",
                ours=lambda wanted=wanted: (held.lake.files.newest(asked.request.resource), quietly(asked, wanted)),
                peer=lambda wanted=wanted: pl.scan_parquet(path).filter(only).select(wanted).collect(),
                versus="polars on its file", size=size,
            )  # fmt: skip
        case(
            "scan, one symbol-day, 4 columns: with policy and ledger, warm",
            ours=lambda: held.lake.scan(TRADES, **question).select(some).collect(),
            peer=lambda: pl.scan_parquet(path).filter(only).select(some).collect(),
            versus="polars on its file", size=size,
        )  # fmt: skip
        case(
            "scan, one day of all symbols, 4 columns, in order of time",
            ours=lambda: held.lake.scan(TRADES, **day).select(some).collect(),
            peer=lambda: pl.scan_parquet(path).select(some).sort("ts_event", "symbol").collect(),
            versus="polars on its file, sorted", size=size, rounds=3,
        )  # fmt: skip


if __name__ == "__main__":
    main()
