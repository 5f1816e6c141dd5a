"""What a table of the lake costs as it grows: planning, a commit, and a dataset version, at 1,000 to 100,000 files.

The manifests are real and the data files are not: planning and committing never open one. Ten files a day, one a bucket
of symbols, as a table of ticks has them. Each case is told beside the same work at a thousand files, so the ratio is the
growth: a hundred times as many files. Two more cases say what order is worth: the same files in lists that each reach
over all the years, and how long it takes to sort them.

The law that these numbers show, in processor time on the machine of the page: planning a day costs a fixed 16 ms and
10 µs a manifest of 500 files, so a hundred times the files cost a tenth more; a commit a fixed 23 ms and 50 µs a manifest;
the lists of a dataset version some 10 µs a file, and reading one month of it a fixed 5 ms and what its months weigh.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from researchkit.settings import environment

os.environ.update(environment())

from pyiceberg.conversions import to_bytes
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.types import LongType, StringType, TimestamptzType

from researchkit.context import parse_table
from researchkit.data import tables
from researchkit.data.filelists import Listed, list_rows, listed
from researchkit.data.layouts import partition_of
from researchkit.data.manifests import rewrite_manifests
from researchkit.data.registry import Registry, insert
from researchkit.data.storage import FolderStorage
from researchkit.data.streaming import Piece
from researchkit.data.upkeep import divide

TABLE = "GLBX.MDP3/trades"
FIRST = datetime(1990, 1, 1, tzinfo=UTC)
A_DAY, BUCKETS = 86_400 * 10**9, 10
SIZES = (1_000, 10_000, 100_000)


@dataclass
class Grown:
    """A table of many files that are not there."""

    table: Any
    registry: Registry
    files: int

    def file(self, number: int, word: str = "a") -> DataFile:
        """One file: the bucket of a day."""
        day, bucket = divmod(number, BUCKETS)
        moment = FIRST + timedelta(days=day)
        ns = int(moment.timestamp()) * 10**9
        part = f"day={moment:%Y-%m-%d}/bucket={bucket}"
        low = {"ts_day": to_bytes(TimestamptzType(), ns // 1000), "ts_event": to_bytes(LongType(), ns)}
        high = {"ts_day": low["ts_day"], "ts_event": to_bytes(LongType(), ns + A_DAY - 1)}
        ids = {f.name: f.field_id for f in self.table.schema().fields}
        bounds = [{ids[k]: v for k, v in side.items()} for side in (low, high)]
        for side, symbol in zip(bounds, (f"S{bucket}A", f"S{bucket}Z"), strict=True):
            side[ids["symbol"]] = to_bytes(StringType(), symbol)
        path = f"lake://glbx_mdp3/trades/data/{part}/{word}{number:032x}.parquet"
        return DataFile.from_args(
            content=DataFileContent.DATA, file_path=path, file_format=FileFormat.PARQUET,
            partition=partition_of(part), record_count=10**6, file_size_in_bytes=15 * 10**6, column_sizes={},
            value_counts={}, null_value_counts={}, nan_value_counts={}, lower_bounds=bounds[0],
            upper_bounds=bounds[1], split_offsets=[4], sort_order_id=None, spec_id=self.table.metadata.default_spec_id,
            equality_ids=None, key_metadata=None,
        )  # fmt: skip

    def pinned(self, word: str = "a") -> Iterator[Listed]:
        """What a version says of its files; those of the last day under another name."""
        for number in range(self.files):
            day, bucket = divmod(number, BUCKETS)
            moment = FIRST + timedelta(days=day)
            ns, last = int(moment.timestamp()) * 10**9, number >= self.files - BUCKETS
            path = f"glbx_mdp3/trades/data/day={moment:%Y-%m-%d}/bucket={bucket}/{word if last else 'a'}{number:032x}.parquet"
            piece = Piece(path, 10**6, 15 * 10**6, ns, ns + A_DAY - 1, f"S{bucket}A", f"S{bucket}Z")
            yield Listed(piece, f"{number:064x}")


def grown(root: Path, files: int, *, mixed: bool = False) -> Grown:
    """Make the table; `mixed` delivers it in lists that each reach over all of its days."""
    registry = Registry(f"sqlite:///{root}/catalog.db")
    catalog = tables.open_catalog(registry.engine, FolderStorage(root / "lake"))
    made = Grown(tables.make_table(catalog, parse_table(TABLE)), registry, files)
    divide(made.table, BUCKETS)
    lots = files // 500 if mixed else 1
    for lot in range(lots):
        tables.commit(made.table, [made.file(n) for n in range(lot, files, lots)], raw_sha256=f"{lot:064x}")
        tables.expire(made.table)
    return made


def cpu_ms(work: Callable[[], object]) -> float:
    """Milliseconds of this process's processor time."""
    gc.collect()
    begun = time.process_time()
    work()
    return 1e3 * (time.process_time() - begun)


def plan(one: Grown) -> float:
    """One symbol of one day in the middle."""
    start = int((FIRST + timedelta(days=one.files // BUCKETS // 2)).timestamp()) * 10**9
    return cpu_ms(lambda: tables.planned(one.table, start=start, end=start + A_DAY, symbols=["S3M"]))


def one_commit(one: Grown, number: int) -> float:
    """A new day of ten files, as an ingest commits and tends it."""
    files = [one.file(one.files + n, f"c{number}") for n in range(BUCKETS)]

    def work() -> None:
        tables.commit(one.table, files, raw_sha256=f"{number:064x}")
        tables.tend(one.table)

    return cpu_ms(work)


def version(one: Grown, name: str) -> float:
    """The lists of files of a dataset version, written."""

    held = list(one.pinned(name))

    def work() -> None:
        rows = list_rows(name, TABLE, held)
        one.registry.write(*((insert(table, made[0]), made) for table, made in rows.items()))

    return cpu_ms(work)


def read_version(one: Grown, name: str) -> float:
    """The files of one month of a version."""
    start = int((FIRST + timedelta(days=one.files // BUCKETS // 2)).timestamp()) * 10**9
    return cpu_ms(lambda: listed(one.registry, name, TABLE, start, start + 20 * A_DAY))


def say(name: str, size: int, ours: list[float], versus: str, theirs: list[float]) -> None:
    """One JSON line as the page of results wants it."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    line: dict[str, object] = {"bench": Path(sys.argv[0]).stem.removeprefix("bench_"), "case": name}
    line |= {"size": f"{size:,} files", "cpu_ms": round(statistics.median(ours), 2), "versus": versus}
    line |= {
        "versus_cpu_ms": round(statistics.median(theirs), 2),
        "ratio": float(f"{statistics.median(ratios):.3g}"),
    }
    line |= {
        "ratio_low": float(f"{ratios[0]:.3g}"),
        "ratio_high": float(f"{ratios[-1]:.3g}"),
        "rounds": len(ours),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    """Grow three tables, do the same to each in turns."""
    work: dict[str, Callable[[Grown, int], float]] = {
        "plan one symbol of one day": lambda one, n: plan(one),
        "commit ten files and tend the table": one_commit,
        "a version, its lists written": lambda one, n: version(one, f"v{n}"),
        "the files of a month of a version": lambda one, n: read_version(one, f"v{n}"),
    }
    with tempfile.TemporaryDirectory() as place:
        every = [grown(Path(place, str(size)), size) for size in SIZES]
        found: dict[str, list[list[float]]] = {name: [[] for _ in SIZES] for name in work}
        for name, task in work.items():
            for number in range(6):  # the first round warms up
                used = [task(one, number) for one in every]
                if number:
                    for kept, ms in zip(found[name], used, strict=True):
                        kept.append(ms)
        for name, kept in found.items():
            for size, ours in zip(SIZES[1:], kept[1:], strict=True):
                say(name, size, ours, f"the same at {SIZES[0]:,} files", kept[0])
        mixed = grown(Path(place, "mixed"), 10_000, mixed=True)
        spread = [plan(mixed) for _ in range(3)]
        sorting = cpu_ms(lambda: rewrite_manifests(mixed.table))
        say(
            "plan it in lists sorted again",
            10_000,
            [plan(mixed) for _ in range(3)],
            "in lists that span all days",
            spread,
        )
        say("sort the lists of a table", 10_000, [sorting] * 3, "one plan before", spread)


if __name__ == "__main__":
    main()
