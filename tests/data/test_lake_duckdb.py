"""Another reader: DuckDB finds in a lake what the lake itself finds, offline, whatever became of the files."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import duckdb
import duckdb_extension_avro
import duckdb_extension_iceberg
import pytest
from lake_kills import ME, TABLE, house, sessions

from researchkit.context import parse_table
from researchkit.data import tables

EXTENSIONS = (duckdb_extension_avro, duckdb_extension_iceberg)  # the second one asks for the first


def extension(package: ModuleType) -> Path:
    """The file of an extension that came as a package."""
    return next(Path(str(package.__file__)).parent.rglob("*.duckdb_extension"))


@pytest.fixture(scope="module")
def duck() -> Any:
    """DuckDB with what reads Iceberg, and nothing that it would fetch by itself."""
    connection = duckdb.connect()
    connection.execute("SET autoinstall_known_extensions = false")
    for package in EXTENSIONS:
        connection.execute(f"LOAD '{extension(package)}'")
    return connection


@pytest.fixture
def ws(tmp_path: Path) -> SimpleNamespace:
    made = house(tmp_path)
    for number, first in enumerate((0, 10, 20)):
        made.bring(f"delivery {number}", sessions(first, first + 10))
    return made


def scanned(ws: SimpleNamespace) -> str:
    """How DuckDB is told which table to read: its folder, and the newest metadata that the catalog names."""
    table = ws.lake.table(parse_table(TABLE))
    version = Path(table.metadata_location).name.removesuffix(".metadata.json")
    folder = ws.lake.storage.local("demo/ohlcv_1d")
    return f"iceberg_scan('{folder}', allow_moved_paths = true, version = '{version}')"


ASKED = (
    "SELECT count(*), min(close), max(close), sum(volume), max(ts_event) FROM {} WHERE ts_day >= '2004-01-01'"
)


def answer(ws: SimpleNamespace) -> tuple[Any, ...]:
    """The same, asked of the lake."""
    rows = ws.lake.scan(TABLE, start="2004-01-01", context=ME).collect()
    close = rows["close"]
    return (
        rows.height,
        close.min(),
        close.max(),
        rows["volume"].sum(),
        rows["ts_event"].max().timestamp() * 10**9,
    )


def test_duckdb_reads_the_table_and_its_prices_are_exact(duck: Any, ws: SimpleNamespace) -> None:
    assert duck.execute(ASKED.format(scanned(ws))).fetchone() == answer(ws)
    kinds = duck.execute(
        f"SELECT typeof(close), typeof(ts_event), typeof(ts_day) FROM {scanned(ws)}"
    ).fetchone()
    assert kinds == ("DECIMAL(18,9)", "BIGINT", "TIMESTAMP WITH TIME ZONE")


def test_duckdb_reads_it_after_upkeep_and_elsewhere(duck: Any, ws: SimpleNamespace, tmp_path: Path) -> None:
    wanted = answer(ws)
    ws.upkeep.compact(TABLE, context=ME)
    ws.upkeep.expire(TABLE, keep=1, context=ME)
    ws.upkeep.orphans(TABLE, context=ME, older=0)
    asked = ASKED.format(scanned(ws))
    assert duck.execute(asked).fetchone() == wanted
    (tmp_path / "lake").rename(tmp_path / "elsewhere")
    moved = asked.replace(str(tmp_path / "lake"), str(tmp_path / "elsewhere"))
    assert duck.execute(moved).fetchone() == wanted


def test_duckdb_reads_the_files_that_were_planned(duck: Any, ws: SimpleNamespace) -> None:
    table = ws.lake.table(parse_table(TABLE))
    new_year = 1_072_915_200 * 10**9
    files = [str(ws.lake.storage.local(path)) for path in tables.planned(table, start=new_year)]
    found = duck.execute(ASKED.format("read_parquet(?, union_by_name = true)"), [files]).fetchone()
    assert (len(files), found) == (2, answer(ws))
