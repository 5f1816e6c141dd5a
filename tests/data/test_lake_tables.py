"""What must hold of the lake's layout beyond its lessons: exactness, bounded metadata, repeatable files."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.table import Table

from researchkit.context import parse_table
from researchkit.data import tables
from researchkit.errors import IntegrityError, SchemaError
from researchkit.frames import BARS, EXACT, INSTANT, QUOTES, TRADES, check, logical_hash

PRICES = st.integers(min_value=-(10**17), max_value=10**17)
INSTANTS = st.integers(min_value=0, max_value=4 * 10**18)


def bars_of(rows: list[tuple[int, int, int]]) -> pl.DataFrame:
    """Bars from (instant, unscaled price, volume), one a row, unique instants."""
    price = pl.Series([Decimal(p).scaleb(-9) for _, p, _ in rows], dtype=EXACT)
    at = pl.Series([t for t, _, _ in rows], dtype=pl.Int64).cast(INSTANT)
    frame = pl.DataFrame({"ts_event": at, "symbol": ["SPX"] * len(rows), "ts_known": at, "ts_published": at})
    frame = frame.with_columns(**{n: price for n in ("open", "high", "low", "close")})
    volume = pl.Series("volume", [v for _, _, v in rows], dtype=pl.UInt64)
    return check(frame.with_columns(volume).sort("ts_event"), BARS)


ROWS = st.lists(
    st.tuples(INSTANTS, PRICES, st.integers(0, 2**63 - 1)), min_size=1, max_size=8, unique_by=lambda r: r[0]
)


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_every_nanosecond_and_every_ninth_decimal_survives(rows: list[tuple[int, int, int]]) -> None:
    bars = bars_of(rows)
    back = tables.restored(tables.stored(bars, BARS), BARS)
    assert logical_hash(back, BARS) == logical_hash(bars, BARS)


@pytest.mark.parametrize("schema", [BARS, TRADES, QUOTES], ids=lambda s: s.name)
def test_every_contract_has_an_iceberg_schema(schema: object) -> None:
    fields = tables.iceberg_schema(schema).fields
    assert [f.name for f in fields] == [tables.DAY, *schema.columns]
    assert {f.name for f in fields if not f.required} == set(schema.nullable)


def test_a_volume_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(IntegrityError, match="must be below 2\\^63"):
        tables.stored(bars_of([(0, 1, 0)]).with_columns(volume=pl.lit(2**63, pl.UInt64)), BARS)


def test_a_frame_that_breaks_its_contract_is_refused_at_the_door() -> None:
    with pytest.raises(SchemaError, match="bars: column 'close' is missing"):
        tables.stored(bars_of([(0, 1, 0)]).drop("close"), BARS)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    catalog = tables.open_catalog(f"sqlite:///{tmp_path}/catalog.db", tmp_path / "lake")
    return tables.make_table(catalog, parse_table("DEMO/ohlcv-1d"))


def year_of(year: int, rows: int = 5) -> pl.DataFrame:
    first = int(datetime(year, 1, 3, tzinfo=UTC).timestamp()) * 10**9
    day = int(timedelta(days=1).total_seconds()) * 10**9
    return tables.stored(bars_of([(first + i * day, 10**9 + i, i) for i in range(rows)]), BARS)


def test_metadata_stays_small_however_many_commits(table: Table, tmp_path: Path) -> None:
    for n in range(30):
        files = tables.write_files(table, year_of(1980 + n), step="year", origin=f"{n:064x}")
        tables.commit(table, files, raw_sha256=f"{n:064x}")
        tables.expire(table, keep=5)
        table.refresh()
    assert len(table.metadata.snapshots) == 5
    folder = tmp_path / "lake" / "demo" / "ohlcv_1d" / "metadata"
    assert len(list(folder.glob("*.metadata.json"))) <= 22
    assert len(list(folder.glob("snap-*.avro"))) == 5
    assert len(tables.planned(table)) == 30
    assert list(tables.commits(table)) == [f"{n:064x}" for n in range(25, 30)]


def test_planning_opens_only_the_years_asked_for(table: Table) -> None:
    for n, year in enumerate((2003, 2004, 2005)):
        tables.commit(
            table,
            tables.write_files(table, year_of(year), step="year", origin=f"{n:064x}"),
            raw_sha256=f"{n:064x}",
        )
    start, end = (int(datetime(y, 1, 1, tzinfo=UTC).timestamp()) * 10**9 for y in (2004, 2005))
    [only] = tables.planned(table, start=start, end=end)
    assert "year=2004" in only
    assert tables.planned(table, start=end + 400 * 86_400 * 10**9) == []


def test_the_same_rows_give_the_same_file(table: Table, tmp_path: Path) -> None:
    def written() -> bytes:
        [file] = tables.write_files(table, year_of(2005), step="year", origin="a" * 64)
        return table.io.path(file.file_path).read_bytes()

    assert written() == written()


def test_no_absolute_path_is_written_into_the_lake(table: Table, tmp_path: Path) -> None:
    tables.commit(
        table, tables.write_files(table, year_of(2005), step="year", origin="a" * 64), raw_sha256="a" * 64
    )
    for path in (tmp_path / "lake").rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path.name
