"""Every way through the files gives the same rows: whole or in slices, from a disk or from elsewhere, old tables and new."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tick_lake import BARS, DAY, ME, TRADES, Place, Trade, as_trades, ns, trades_file, walk

from researchkit.context import parse_table
from researchkit.data import tables
from researchkit.data.encode import encode_bars
from researchkit.data.ingest import symbol_rows
from researchkit.data.layouts import layout_of
from researchkit.data.registry import insert
from researchkit.data.scan import Access, read
from researchkit.data.storage import FolderStorage
from researchkit.data.streaming import Opener
from researchkit.errors import NotFound
from researchkit.frames import BARS as CONTRACT
from researchkit.frames import INSTANT, check, conform, logical_hash
from researchkit.frames import TRADES as TICKS

DATE = ns("2024-03-01")
NAMES = ("AAA", "BBB", "CCC")


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Three days of trades; the second day was restated: one in twenty of its trades was taken back."""
    place = Place(tmp_path_factory.mktemp("lake"))
    for day in range(3):
        place.bring(walk(4_000, DATE + day * DAY, NAMES, seed=day), f"day{day}.dbn.zst")
    before = place.scan(start="2024-03-02", end="2024-03-03", vendor=True)
    kept = before.filter(pl.col("sequence") % 20 != 0)
    place.clock[0] = ns("2024-03-05")
    place.bring(trades_file(as_trades(kept), (DATE + DAY, DATE + 2 * DAY), NAMES), "day1.dbn.zst")
    return place


@pytest.fixture(scope="module")
def whole(held: Place) -> pl.DataFrame:
    return held.scan()


class Elsewhere(FolderStorage):
    """A folder that behaves as if its files lay on another machine."""

    def local(self, path: str) -> Any:
        return None if sys._getframe(1).f_code.co_name != "open" else super().local(path)


def again(
    held: Place, asked: Any, *, far: bool = False, budget: int = 1 << 30, forget: bool = False
) -> Access:
    """The same question, answered in another way."""
    found: Access = asked.access
    pieces = [replace(p, plain=False, first_ns=None, last_symbol=None) if forget else p for p in asked.pieces]
    opener = Opener(Elsewhere(held.root / "lake") if far else held.lake.storage)
    return replace(found, files=opener, budget=budget, plan=lambda: pieces, check=lambda paths: None)


def test_what_comes_out_keeps_the_contract(whole: pl.DataFrame) -> None:
    assert check(whole, TICKS).equals(whole)
    assert whole.height == 11_800


PREDICATES = st.lists(
    st.one_of(
        st.sampled_from(NAMES).map(lambda s: pl.col("symbol") == s),
        st.lists(st.sampled_from((*NAMES, "ZZZ")), min_size=1, max_size=2).map(
            lambda s: pl.col("symbol").is_in(s)
        ),
        st.integers(0, 3 * 86_400).map(
            lambda s: pl.col("ts_event") >= datetime(2024, 3, 1, tzinfo=UTC) + timedelta(seconds=s)
        ),
        st.integers(0, 3 * 86_400).map(
            lambda s: pl.lit(datetime(2024, 3, 1, tzinfo=UTC) + timedelta(seconds=s)) > pl.col("ts_event")
        ),
        st.integers(1, 500).map(lambda n: pl.col("size") < n),
        st.integers(0, 4_000).map(lambda n: (pl.col("sequence") < n) | (pl.col("symbol") == "BBB")),
        st.sampled_from(("A", "B")).map(lambda s: pl.col("side") != s),
    ),
    max_size=3,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rules=PREDICATES,
    columns=st.sets(st.sampled_from(list(TICKS.columns)), min_size=1, max_size=4),
    rows=st.sampled_from((None, 1, 500)),
)
def test_filters_pushed_down_change_nothing(
    held: Place, whole: pl.DataFrame, rules: list[pl.Expr], columns: set[str], rows: int | None
) -> None:
    names = sorted(columns)
    ours = held.lake.scan(TRADES, context=ME).filter(*rules).select(names)
    theirs = whole.lazy().filter(*rules).select(names)
    assert (
        (ours if rows is None else ours.head(rows))
        .collect()
        .equals((theirs if rows is None else theirs.head(rows)).collect())
    )


def test_a_limit_comes_before_the_filter_that_follows_it(held: Place, whole: pl.DataFrame) -> None:
    for rule in (pl.col("symbol") == "BBB", pl.col("size") > 250, pl.col("sequence") < 9):
        lazy = held.lake.scan(TRADES, context=ME)
        assert lazy.head(10).filter(rule).collect().equals(whole.head(10).filter(rule))
        assert lazy.filter(rule).head(10).collect().equals(whole.filter(rule).head(10))
        assert lazy.head(0).filter(rule).collect().height == 0


def test_the_ledger_tells_the_whole_filter_and_the_objects(held: Place) -> None:
    def line() -> dict[str, Any]:
        return dict(held.door.ledger.entries(kind="read")[-1].body)

    names = [f"S{n}" for n in range(40)]
    held.lake.scan(TRADES, context=ME).filter(pl.col("symbol").is_in(["AAA", *names])).collect()
    assert all(f'"{name}"' in line()["predicate"] for name in names)
    by_hand = pl.col("symbol").map_batches(is_a, return_dtype=pl.Boolean, is_elementwise=True)
    held.lake.scan(TRADES, context=ME).filter(by_hand).collect()
    assert "test_lake_scan.is_a (SHA-256 " in line()["predicate"]
    [first, *_] = held.registry.rows("SELECT raw_sha256 FROM ingests ORDER BY ingested_ns")
    held.lake.scan(TRADES, context=ME, objects=[first["raw_sha256"]]).collect()
    assert line()["objects"] == [first["raw_sha256"]]
    with pytest.raises(ValueError, match="pin p and objects cannot be asked for together"):
        held.lake.scan(TRADES, context=ME, objects=[first["raw_sha256"]], pin="p")
    with pytest.raises(ValueError, match="asof must be an ISO date or instant"):
        held.lake.scan(TRADES, context=ME, asof=11.5)  # type: ignore[arg-type]  # a caller without types


def is_a(names: pl.Series) -> pl.Series:
    return names == "AAA"


@pytest.mark.parametrize("far", [False, True], ids=["disk", "elsewhere"])
@pytest.mark.parametrize("forget", [False, True], ids=["known", "unknown"])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"symbols": "BBB"},
        {"start": "2024-03-01T22:00", "end": "2024-03-02T02:00"},
        {"asof": "2024-03-02T12:00"},
    ],
)
def test_slices_are_the_whole(held: Place, asked: dict[str, str], far: bool, forget: bool) -> None:
    found = held.lake.asked(TRADES, context=ME, **asked)
    expected = held.scan(**asked)
    columns = list(TICKS.columns)
    for budget in (20_000, 1 << 30):
        access = again(held, found, far=far, budget=budget, forget=forget)
        parts = [p for p in read(access, found.request, columns) if p.height]
        assert pl.concat(parts).equals(expected)
        assert len(parts) > 5 or budget > 20_000 or expected.height < 1_000


def test_the_vendors_own_columns_come_when_asked_for(held: Place, whole: pl.DataFrame) -> None:
    more = held.scan(vendor=True)
    assert more.select(whole.columns).equals(whole)
    assert more["publisher_id"].unique().to_list() == [2]
    assert more["action"].unique().to_list() == ["T"]
    bars = conform(pl.DataFrame({"ts_event": [datetime(2024, 3, 1, tzinfo=UTC)], "symbol": "X", "volume": 1}).with_columns(
        ts_known=pl.lit(datetime(2024, 3, 2, tzinfo=UTC)), ts_published=pl.lit(datetime(2024, 3, 2, tzinfo=UTC)),
        **dict.fromkeys(("open", "high", "low", "close"), pl.lit(1.0))), CONTRACT)  # fmt: skip
    held.bring(encode_bars(bars, dataset="DEMO", schema="ohlcv-1d"), "bars")
    assert held.scan(BARS, vendor=True)["instrument_id"].to_list() == [1]


def test_only_files_that_may_match_are_opened(held: Place) -> None:
    seen: list[str] = []
    found = held.lake.asked(TRADES, context=ME)
    access = replace(found.access, check=lambda paths: seen.extend(paths))
    noon = pl.col("ts_event") >= datetime(2024, 3, 3, 12, tzinfo=UTC)
    assert sum(p.height for p in read(access, found.request, ["price"], noon)) > 0
    assert [p.split("/")[3] for p in seen] == ["day=2024-03-03"]
    assert [p.path.split("/")[3] for p in held.lake.asked(TRADES, context=ME, end="2024-03-02").pieces] == [
        "day=2024-03-01"
    ]
    with pytest.raises(NotFound, match="no symbol 'ZZZ'"):
        held.lake.asked(TRADES, symbols="ZZZ", context=ME)


def test_the_door_is_passed_at_every_collect_and_once_for_batches(held: Place) -> None:
    def lines() -> list[Any]:
        return list(held.door.ledger.entries(kind="read"))

    before = len(lines())
    lazy = held.lake.scan(TRADES, context=ME, symbols="AAA")
    slices = held.lake.batches(TRADES, ["price"], context=ME, budget=20_000)
    assert len(lines()) == before + 1
    assert sum(1 for _ in slices) > 5
    lazy.filter(pl.col("price") > 0).select(pl.len()).collect()
    lazy.select("size").collect(engine="streaming")
    assert [e.body["columns"][-1] for e in lines()[before:]] == ["price", "price", "size"]
    assert ["symbols" in e.body for e in lines()[before:]] == [False, True, True]


def test_a_plan_is_made_once_a_month_and_the_table_read_once(
    held: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.scan(start="2024-03-01", end="2024-03-02")
    monkeypatch.setattr(
        type(held.lake.catalog), "load_table", lambda *_: pytest.fail("the metadata did not change")
    )
    before = held.lake.files._plans.cache_info().misses
    for day in (1, 2, 3):
        held.scan(start=f"2024-03-0{day}", end=f"2024-03-0{day + 1}", symbols="AAA")
    assert held.lake.files._plans.cache_info().misses == before


# --- tables written by an earlier version ---


def old_bars(sessions: int, first: datetime = datetime(2024, 1, 1, tzinfo=UTC)) -> pl.DataFrame:
    days = [first + timedelta(days=i) for i in range(sessions)]
    rows = pl.DataFrame({"ts_event": days, "symbol": ["SPX"] * sessions, "volume": 10})
    known, price = pl.col("ts_event") + pl.duration(days=1), pl.col("ts_event").dt.day() + 100.0
    return conform(
        rows.with_columns(ts_known=known, ts_published=known, open=price, high=price, low=price, close=price),
        CONTRACT,
    )


def old_table(place: Place, bars: pl.DataFrame, origin: str) -> None:
    """A table as it was before: every column required and filled, none of the vendor's, nothing retracted."""
    from pyiceberg.io.pyarrow import parquet_file_to_data_file
    from pyiceberg.schema import Schema
    from pyiceberg.types import NestedField

    of = parse_table(BARS)
    new = {f.name: f.field_type for f in tables.iceberg_schema(layout_of(of)).fields}
    columns = [tables.DAY, *CONTRACT.columns]
    schema = Schema(*(NestedField(n, c, new[c], required=True) for n, c in enumerate(columns, 1)))
    place.lake.catalog.create_namespace("demo")
    made = place.lake.catalog.create_table(
        of.identifier,
        schema,
        "lake://demo/ohlcv_1d",
        tables.partition_spec(layout_of(of)),
        properties=dict(tables.PROPERTIES),
    )
    rows = tables.stored(
        bars.cast({n: pl.Decimal(18, 9) for n in ("open", "high", "low", "close")}), CONTRACT
    )
    path = f"demo/ohlcv_1d/data/year=2024/{tables.stem(origin)}.parquet"
    arrow = rows.to_arrow().cast(schema.as_arrow())
    size = place.lake.storage.publish(
        path, lambda sink: pq.write_table(arrow, sink, version="2.6", store_decimal_as_integer=True)
    )
    file = parquet_file_to_data_file(made.io, made.metadata, f"lake://{path}")
    snapshot = tables.commit(made, [file], raw_sha256=origin)
    ends = rows.select(a=pl.col("ts_event").min(), b=pl.col("ts_event").max()).row(0)
    row = {
        "path": path,
        "table_name": BARS,
        "raw_sha256": origin,
        "bytes": size.bytes,
        "sha256": size.sha256,
        "rows": rows.height,
    }
    row |= {"first_ns": ends[0], "last_ns": ends[1]}
    done = {
        "raw_sha256": origin,
        "table_name": BARS,
        "snapshot": snapshot,
        "rows": rows.height,
        "ingested_ns": 1,
        "held": rows.height,
    }
    symbols = symbol_rows(place.root / "lake", [path], BARS, [])
    place.registry.write(
        (insert("lake_files", row), [row]),
        (insert("ingests", done), [done]),
        (insert("lake_symbols", symbols[0]), symbols),
    )


def test_an_older_table_reads_as_it_did_and_goes_on(tmp_path: Path) -> None:
    place = Place(tmp_path)
    old = old_bars(40)
    old_table(place, old, "a" * 64)
    exact = logical_hash(old.cast({n: pl.Decimal(18, 9) for n in ("open", "high", "low", "close")}), CONTRACT)
    assert logical_hash(place.scan(BARS), CONTRACT) == exact
    assert place.scan(BARS, vendor=True)["publisher_id"].null_count() == 40
    assert place.scan(BARS, asof="2024-01-11").height == 10
    made = place.pins.create("old", [BARS], context=ME)
    assert (made.tables[0].logical_hash, made.tables[0].assumed) == (exact, 40)
    place.bars(old_bars(5, datetime(2024, 2, 10, tzinfo=UTC)), "more")
    assert place.scan(BARS).height == 45
    assert place.pins.create("old-again", [BARS], objects=["a" * 64], context=ME).id == made.id
    place.bars(
        old_bars(2).with_columns(volume=pl.lit(7, pl.UInt64)),
        "fix",
        published=datetime(2024, 5, 1, tzinfo=UTC),
    )
    assert place.scan(BARS)["volume"].head(3).to_list() == [7, 7, 10]
    assert logical_hash(place.scan(BARS, pin="old"), CONTRACT) == exact
    assert place.scan(BARS, asof="2024-04-01")["volume"].unique().to_list() == [10]


# --- rows that were put aside ---


def test_rows_that_were_put_aside_are_seen_with_their_reason(tmp_path: Path) -> None:
    place = Place(tmp_path)
    sound = [Trade(DATE + n, "AAA", 1.0 + n, sequence=n) for n in range(300)]
    far = Trade(DATE + 1_000, "AAA", 2e9, sequence=900)
    place.bring(trades_file([*sound, far], (DATE, DATE + DAY)), "day")
    assert place.scan().height == 300
    [bad] = place.scan(quarantined=True).select("ts_event", "symbol", "sequence", "reason").rows()
    assert bad[1:] == ("AAA", 900, "price out of range")
    assert place.scan(quarantined=True).schema["ts_event"] == INSTANT
    assert place.door.ledger.entries(kind="read")[-1].body["quarantined"] is True
    assert place.scan(quarantined=True, symbols="BBB").height == 0
    one = place.lake.scan(TRADES, quarantined=True, context=ME).head(1)
    assert one.filter(pl.col("reason") == "another").collect().height == 0
    with pytest.raises(ValueError, match="have no versions"):
        place.scan(quarantined=True, asof="2024-03-02")


# --- memory ---

MONTH = """
import resource, sys
from pathlib import Path
import polars as pl
sys.path.insert(0, {servers!r})
from tick_lake import ME, TRADES, Place
place = Place(Path({root!r}))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
rows = sum(f.height for f in place.lake.batches(TRADES, end="2024-03-02", budget=8 << 20, context=ME))
one = peak()
rows = sum(f.height for f in place.lake.batches(TRADES, budget=8 << 20, context=ME))
every = place.lake.scan(TRADES, context=ME, asof="2030-01-01").select(pl.len(), pl.col("size").sum()).collect(engine="streaming")
print(rows, every.item(0, 0), one, peak())
"""


def test_a_month_takes_no_more_memory_than_a_day(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for day in range(5):
        place.bring(walk(150_000, DATE + day * DAY, [f"S{n:02}" for n in range(20)], seed=day), f"day{day}")
    program = MONTH.format(servers=str(Path(__file__).parents[1] / "servers"), root=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rows, again, one, peak = done.stdout.split()
    assert (int(rows), int(again)) == (750_000, 750_000)
    held = 750_000 * 97 / 2**20  # MiB, what the month would take at once
    assert float(peak) - float(one) < held / 2, done.stdout
