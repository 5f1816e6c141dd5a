"""What must hold of the lake's layout beyond its lessons: exactness, bounded metadata, repeatable files."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.table import Table

from researchkit.context import Context, Principal, parse_table
from researchkit.data import migrations, tables
from researchkit.data.door import Door
from researchkit.data.encode import encode_bars
from researchkit.data.fileio import relative
from researchkit.data.ingest import Index
from researchkit.data.lake import Lake
from researchkit.data.layouts import LAYOUTS, Layout, iceberg_schema
from researchkit.data.pins import Pins
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.data.shares import files_of
from researchkit.errors import IntegrityError, NotFound, SchemaError
from researchkit.frames import BARS, EXACT, INSTANT, check, logical_hash
from researchkit.security.database import migrate
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

PRICES = st.integers(min_value=-(10**17), max_value=10**17)
INSTANTS = st.integers(min_value=0, max_value=4 * 10**18)


YEARLY = LAYOUTS["ohlcv-1d"]


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
    back = tables.restored(tables.stored(bars, YEARLY), YEARLY).select(*BARS.columns)
    assert logical_hash(back, BARS) == logical_hash(bars, BARS)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda x: x.schema)
def test_every_layout_has_an_iceberg_schema(layout: Layout) -> None:
    fields = iceberg_schema(layout).fields
    assert [f.name for f in fields] == [tables.DAY, *layout.frame.columns, *layout.vendor, "retracted"]
    assert {f.name for f in fields if f.required} == {tables.DAY, *layout.frame.key}


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
        files = tables.write_files(table, year_of(1980 + n), layout=YEARLY, origin=f"{n:064x}")
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
            tables.write_files(table, year_of(year), layout=YEARLY, origin=f"{n:064x}"),
            raw_sha256=f"{n:064x}",
        )
    start, end = (int(datetime(y, 1, 1, tzinfo=UTC).timestamp()) * 10**9 for y in (2004, 2005))
    [only] = tables.planned(table, start=start, end=end)
    assert "year=2004" in only
    assert tables.planned(table, start=end + 400 * 86_400 * 10**9) == []


def test_the_same_rows_give_the_same_file(table: Table, tmp_path: Path) -> None:
    def written() -> bytes:
        [file] = tables.write_files(table, year_of(2005), layout=YEARLY, origin="a" * 64)
        return (tmp_path / "lake" / relative(file.file_path)).read_bytes()

    assert written() == written()


def test_no_absolute_path_is_written_into_the_lake(table: Table, tmp_path: Path) -> None:
    tables.commit(
        table, tables.write_files(table, year_of(2005), layout=YEARLY, origin="a" * 64), raw_sha256="a" * 64
    )
    for path in (tmp_path / "lake").rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path.name


TABLE = "DEMO/ohlcv-1d"
DAY = 86_400 * 10**9
ME = Context(Principal("tester", ("data-engineer", "quant")))


def sessions(first: int, last: int, *, of: int = 12_400) -> pl.DataFrame:
    """Bars of SPX on the days `first` to `last`, counted from 14 December 2003; the price follows the day."""
    bars = bars_of([((of + d) * DAY, 10**9 * (1000 + d), 10 + d) for d in range(first, last)])
    known = (pl.col("ts_event") + pl.duration(days=1)).cast(INSTANT)
    return bars.with_columns(ts_known=known, ts_published=known)


def workspace(root: Path) -> SimpleNamespace:
    """A lake with pins; `bring` puts and ingests, `pin` pins what objects hold."""
    install(root / "policy")
    registry = Registry(f"sqlite:///{root}/catalog.db")
    door = Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db"))
    raw = RawZone(root / "raw", registry=registry, keyring=Keyring(root / "keys"), door=door, immutable=False)
    lake = Lake(root / "lake", registry=registry, raw=raw, door=door)
    pins = Pins(registry=registry, lake=lake, door=door)

    def bring(frame: pl.DataFrame, **rest: object) -> str:
        put = raw.put(encode_bars(frame, dataset="DEMO", schema="ohlcv-1d"), name="x", key="demo", context=ME)
        return lake.ingest(put.sha256, context=ME, **rest).raw_sha256

    def pin(name: str, *objects: str) -> object:
        return pins.create(name, [TABLE], objects=objects, context=ME)

    return SimpleNamespace(registry=registry, lake=lake, pins=pins, bring=bring, pin=pin, door=door)


@pytest.fixture
def ws(tmp_path: Path) -> SimpleNamespace:
    return workspace(tmp_path)


def held(frame: pl.DataFrame) -> str:
    return logical_hash(frame, BARS)


def test_an_object_that_repeats_another_and_goes_on_is_pinned_whole(
    ws: SimpleNamespace, tmp_path: Path
) -> None:
    first, update = ws.bring(sessions(0, 30)), ws.bring(sessions(0, 50))
    made = ws.pin("update", update)
    assert (made.rows, made.tables[0].logical_hash) == (50, held(sessions(0, 50)))
    assert made.id == ws.pin("both", first, update).id
    assert ws.pin("first", first).tables[0].logical_hash == held(sessions(0, 30))
    alone = workspace(tmp_path / "alone")
    assert alone.pin("update", alone.bring(sessions(0, 50))).id == made.id


def test_an_object_that_lies_wholly_in_others_has_rows_or_is_refused(ws: SimpleNamespace) -> None:
    parts = [ws.bring(sessions(0, 10)), ws.bring(sessions(10, 30))]
    whole, piece = ws.bring(sessions(0, 30)), ws.bring(sessions(5, 8))
    assert ws.pin("whole", whole).id == ws.pin("parts", *parts).id
    words = (
        f"^{TABLE}: object {piece[:12]} holds 3 rows and brought 0 of them; 3 came with {parts[0][:12]}, "
        "in files that hold other rows too: name these objects too, or use a workspace of its own$"
    )
    with pytest.raises(ValueError, match=words):
        ws.pin("piece", piece)
    with pytest.raises(ValueError, match=words):
        ws.lake.scan(TABLE, objects=[piece], context=ME)
    assert ws.pin("named", piece, parts[0]).tables[0].logical_hash == held(sessions(0, 10))
    assert "piece" not in ws.pins.names()


def test_a_partly_shared_object_is_refused_until_the_other_is_named(ws: SimpleNamespace) -> None:
    first, update = ws.bring(sessions(0, 30)), ws.bring(sessions(20, 50))
    with pytest.raises(
        ValueError, match=f"holds 30 rows and brought 20 of them; 10 came with {first[:12]}, in"
    ):
        ws.pin("update", update)
    assert ws.pin("update", first, update).tables[0].logical_hash == held(sessions(0, 50))


def test_each_partition_is_judged_by_itself(ws: SimpleNamespace) -> None:
    both_years, new_year = ws.bring(sessions(0, 40)), ws.bring(sessions(18, 45))
    assert ws.lake.scan(TABLE, objects=[both_years], context=ME).collect().height == 40
    assert sessions(18, 19)["ts_event"].dt.year().item() == 2004
    made = ws.pin("new-year", new_year)
    assert made.tables[0].logical_hash == held(sessions(18, 45))
    assert {f.path.split("/")[3] for f in made.tables[0].files} == {"year=2004"}


def test_a_correction_is_a_row_of_its_own_object(ws: SimpleNamespace) -> None:
    first = ws.bring(sessions(0, 10))
    fixed = sessions(0, 12).with_columns(
        close=pl.when(pl.col("volume") == 10).then(pl.col("close") + 1).otherwise("close").cast(EXACT)
    )
    update = ws.bring(fixed, published=datetime(2005, 1, 1, tzinfo=UTC))
    assert ws.pin("first", first).tables[0].logical_hash == held(sessions(0, 10))
    assert ws.pin("update", update).rows == 12
    assert ws.lake.scan(TABLE, objects=[update], context=ME).collect()["close"].equals(fixed["close"])


def test_objects_that_are_not_in_the_table_are_named(ws: SimpleNamespace) -> None:
    first = ws.bring(sessions(0, 10))
    with pytest.raises(NotFound, match="no ingested object '0000"):
        ws.pin("other", first, "0" * 64)
    with pytest.raises(NotFound, match=f"no rows of {TABLE} in the objects named: none"):
        ws.pin("none")


def test_the_demos_order_gives_the_same_pins_again(ws: SimpleNamespace) -> None:
    opened = ws.bring(sessions(0, 30))
    history = ws.pin("history", opened)
    sealed = ws.bring(sessions(30, 60))
    whole = ws.pin("history-and-sealed", opened, sealed)
    before = len(ws.door.ledger.entries(kind="raw read"))
    assert [ws.bring(sessions(0, 30)), ws.bring(sessions(30, 60))] == [opened, sealed]
    assert len(ws.door.ledger.entries(kind="raw read")) == before
    assert ws.pin("history", opened) == history
    assert ws.pin("history-and-sealed", opened, sealed) == whole
    assert (history.rows, whole.rows) == (30, 60)


def test_an_account_without_a_count_is_not_believed_and_ingesting_again_counts(ws: SimpleNamespace) -> None:
    first, update = ws.bring(sessions(0, 30)), ws.bring(sessions(0, 50))
    made = ws.pin("update", update)
    for forget in ("UPDATE ingests SET held = NULL WHERE 1 = :x", "DELETE FROM shared_files WHERE 1 = :x"):
        ws.registry.write((forget, [{"x": 1}]))
    for name in (first, update):
        with pytest.raises(IntegrityError, match="was not counted; ingest it again"):
            ws.lake.scan(TABLE, objects=[name], context=ME)
    assert ws.bring(sessions(0, 50)) == update
    assert ws.pin("update", update) == made
    assert ws.bring(sessions(0, 30)) == first
    assert ws.pin("first", first).rows == 30
    assert ws.lake.tables()["rows"].to_list() == [50]


def test_a_correction_is_counted_only_with_its_day(ws: SimpleNamespace) -> None:
    ws.bring(sessions(0, 10))
    day = datetime(2005, 1, 1, tzinfo=UTC)
    fixed = sessions(0, 4).with_columns(volume=pl.lit(7, pl.UInt64))
    update = ws.bring(fixed, published=day)
    ws.registry.write(("UPDATE ingests SET held = NULL WHERE raw_sha256 = :r", [{"r": update}]))
    ws.bring(fixed)
    with pytest.raises(IntegrityError, match=r"with the published=… that it was ingested with"):
        ws.pin("fixed", update)
    ws.bring(fixed, published=day)
    assert ws.pin("fixed", update).rows == 4


def test_a_registry_of_the_first_revision_is_copied_and_moved_on(tmp_path: Path) -> None:
    [package] = migrations.__path__
    old = tmp_path / "old"
    old.mkdir()
    first = "r0001_registry.py"
    (old / first).write_bytes((Path(package) / first).read_bytes())
    url = f"sqlite:///{tmp_path}/catalog.db"
    migrate(url, old, name="data").dispose()
    before = Registry(url)
    before.__dict__["engine"] = migrate(url, old, name="data")
    row = {"raw_sha256": "a" * 64, "table_name": TABLE, "snapshot": 1, "rows": 2, "ingested_ns": 3}
    before.write((f"INSERT INTO ingests VALUES ({', '.join(f':{n}' for n in row)})", [row]))
    now = Registry(url)
    assert now.rows("SELECT * FROM ingests") == [row | {"held": None}]
    assert (tmp_path / "catalog.db.backup-data-0001_registry").is_file()
    with pytest.raises(IntegrityError, match="was not counted"):
        files_of(now, TABLE, ["a" * 64])


def test_spans_that_are_readable_are_found_before_and_after_they_are_indexed(
    ws: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, middle, end = (int((12_400 + d) * DAY) for d in (0, 30, 60))
    assert ws.lake.overlapping(TABLE, start, end, besides=[]) == []
    first = ws.bring(sessions(0, 30))
    assert ws.lake.overlapping(TABLE, middle, end, besides=[]) == []
    assert ws.lake.overlapping(TABLE, middle - 1, end, besides=[]) == []
    assert ws.lake.overlapping(TABLE, middle - DAY, end, besides=[]) == [first]
    with monkeypatch.context() as killed:
        killed.setattr(Index, "complete", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ws.bring(sessions(30, 60))
    [late] = ws.lake.overlapping(TABLE, middle, end, besides=[first])
    assert late != first
    assert ws.lake.overlapping(TABLE, start, end, besides=[late, first]) == []
    assert ws.bring(sessions(30, 60)) == late
    assert ws.lake.overlapping(TABLE, start, end, besides=[]) == sorted([first, late])
    with pytest.raises(ValueError, match="start must lie before end"):
        ws.lake.overlapping(TABLE, end, start, besides=[])
