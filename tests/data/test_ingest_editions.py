"""Editions come in their order, a row put aside takes nothing back, bars have one publisher, and ticks their delay."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databento_dbn
import numpy as np
import pytest
import zstandard
from tick_lake import BARS, DAY, ME, TRADES, Place, Trade, ns, trades_file

from researchkit.data.encode import encode
from researchkit.data.envelope import layout
from researchkit.data.lake import Lake
from researchkit.errors import SchemaError

DATE, TEN = ns("2024-03-01"), ns("2024-03-01T10:00")
SPAN = (DATE, DATE + DAY)
FIRST = [
    Trade(TEN, "AAA", 100.0, 5, 1),
    Trade(TEN + 1, "AAA", 101.0, 5, 2),
    Trade(TEN + 2, "BBB", 20.0, 1, 3),
]


def at(hour: int) -> datetime:
    return datetime(2024, 3, 2, hour, tzinfo=UTC)


def rows(place: Place, **rest: Any) -> list[tuple[str, float]]:
    found = place.scan(**rest).sort("sequence", "symbol")
    return [(s, float(p)) for s, p in found.select("symbol", "price").iter_rows()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    held = Place(tmp_path)
    held.bring(trades_file(FIRST, SPAN), "day.dbn.zst")
    return held


def test_an_older_edition_of_the_same_rows_is_refused(place: Place) -> None:
    place.bring(trades_file(FIRST[1:], SPAN), "fix.dbn.zst", published=at(18))
    with pytest.raises(ValueError, match="editions come in their order"):
        place.bring(trades_file(FIRST[2:], SPAN), "older.dbn.zst", published=at(16))
    assert rows(place) == [("AAA", 101.0), ("BBB", 20.0)]


def test_corrections_of_other_symbols_may_come_in_any_order(place: Place) -> None:
    place.bring(trades_file(FIRST[:1], SPAN, ["AAA"]), "aaa.dbn.zst", published=at(18))
    place.bring(
        trades_file([Trade(TEN + 2, "BBB", 19.0, 1, 3)], SPAN, ["BBB"]), "bbb.dbn.zst", published=at(16)
    )
    assert rows(place) == [("AAA", 100.0), ("BBB", 19.0)]
    assert rows(place, published="2024-03-02T17:00") == [("AAA", 100.0), ("AAA", 101.0), ("BBB", 19.0)]


def test_versions_of_one_name_are_not_brought_in_backwards(place: Place) -> None:
    second, third = (
        place.raw.put(trades_file(FIRST[n:], SPAN), name="day.dbn.zst", key="demo", context=ME).sha256
        for n in (1, 2)
    )
    place.lake.ingest(third, context=ME)
    with pytest.raises(ValueError, match="version 2 is older than version 3"):
        place.lake.ingest(second, context=ME)
    assert rows(place) == [("BBB", 20.0)]


def test_another_day_of_publication_is_not_ignored(place: Place) -> None:
    fix = place.bring(trades_file(FIRST[1:], SPAN), "fix.dbn.zst", published=at(16))
    assert place.lake.ingest(fix, context=ME, published=at(16)).new is False
    with pytest.raises(ValueError, match="an object is ingested once"):
        place.lake.ingest(fix, context=ME, published=at(18))


def of_all_symbols(trades: list[Trade], ids: dict[str, int]) -> bytes:
    """A file that was asked for everything there is."""
    raw = zstandard.ZstdDecompressor().decompress(trades_file(trades, SPAN, list(ids)))
    days = {"start_date": date(2024, 3, 1), "end_date": date(2024, 3, 2)}
    head = databento_dbn.Metadata(
        dataset="XNAS.TEST", start=SPAN[0], end=SPAN[1], stype_in=databento_dbn.SType.RAW_SYMBOL,
        stype_out=databento_dbn.SType.INSTRUMENT_ID, schema=databento_dbn.Schema.from_str("trades"),
        symbols=["ALL_SYMBOLS"], ts_out=False, version=3,
        mappings=[
            SimpleNamespace(raw_symbol=s, intervals=[SimpleNamespace(**days, symbol=str(n))]) for s, n in ids.items()
        ],
    )  # fmt: skip
    body = raw[8 + int.from_bytes(raw[4:8], "little") :]
    return zstandard.ZstdCompressor(write_checksum=True).compress(bytes(head) + body)


def test_a_file_of_all_symbols_takes_back_those_that_it_no_longer_has(place: Place) -> None:
    place.bring(of_all_symbols(FIRST[:2], {"AAA": 1}), "all.dbn.zst", published=at(16))
    assert rows(place) == [("AAA", 100.0), ("AAA", 101.0)]


def test_a_row_whose_new_version_is_put_aside_stays(tmp_path: Path) -> None:
    held = Place(tmp_path)
    many = [Trade(TEN + i, "AAA", 100.0, 1, i) for i in range(200)]
    held.bring(trades_file(many, SPAN), "day.dbn.zst")
    broken = [Trade(t.at, t.symbol, 2e9 if t.sequence == 5 else t.price, 1, t.sequence) for t in many[:199]]
    held.bring(trades_file(broken, SPAN), "day.dbn.zst")
    assert held.scan()["sequence"].to_list() == list(range(199)), (
        "number 199 was taken back, number 5 was not"
    )
    assert held.lake.scan(TRADES, context=ME, quarantined=True).collect()["reason"].to_list() == [
        "price out of range"
    ]


def bars(publisher: int, first: int) -> bytes:
    found = np.zeros(2, layout("ohlcv-1d"))
    found["ts_event"] = DATE + DAY * np.arange(first, first + 2)
    found["instrument_id"], found["publisher_id"], found["volume"] = 1, publisher, 10
    for name in ("open", "high", "low", "close"):
        found[name] = 100 * 10**9
    span = (DATE + first * DAY, DATE + (first + 2) * DAY)
    return encode(found, dataset="DEMO", schema="ohlcv-1d", ids={"AAA": 1}, span=span)


def test_bars_of_another_publisher_are_refused(tmp_path: Path) -> None:
    held = Place(tmp_path)
    held.bring(bars(1, 0), "one.dbn.zst")
    with pytest.raises(
        SchemaError, match=r"bars of publisher 2, and those of DEMO/ohlcv-1d are of publisher 1"
    ):
        held.bring(bars(2, 2), "two.dbn.zst")
    held.bring(bars(1, 2), "more.dbn.zst")
    assert held.scan(BARS).height == 4


def test_of_several_files_in_one_call_too(tmp_path: Path) -> None:
    held = Place(tmp_path)
    put = [held.raw.put(bars(n, 2 * n), name=f"{n}.dbn.zst", key="demo", context=ME).sha256 for n in (1, 2)]
    with pytest.raises(SchemaError, match="rule: one publisher a table"):
        held.lake.ingest_many(put, context=ME)
    assert held.scan(BARS).height == 2, "the first of them is there"


def test_a_tick_is_known_when_it_can_have_reached_us(tmp_path: Path) -> None:
    held = Place(tmp_path)
    day = held.raw.put(trades_file(FIRST, SPAN), name="day.dbn.zst", key="demo", context=ME).sha256
    far = {"XNAS.TEST": 350_000}
    lake = Lake(held.root / "lake", registry=held.registry, raw=held.raw, door=held.door, latency=far)
    lake.ingest(day, context=ME)
    later = held.raw.put(
        trades_file([*FIRST, Trade(TEN + 10**9, "BBB", 21.0, 1, 4)], SPAN),
        name="more.dbn.zst",
        key="demo",
        context=ME,
    )
    held.lake.ingest(later.sha256, context=ME)  # after the setting was taken away
    known = held.scan().sort("sequence").select("ts_known", "ts_recv", "ts_published")
    late = (known["ts_known"] - known["ts_recv"]).dt.total_nanoseconds().to_list()
    assert late == [350_000] * 3 + [0]
    assert known["ts_known"].equals(known["ts_published"])
    assert held.scan(asof=TEN + 1_000 + 350_000)["sequence"].to_list() == [1]
