"""A decision sees what was known and published by then; what the vendor restates later changes nothing that was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from tick_lake import BARS, DAY, ME, TRADES, Place, Trade, ns, trades_file

from researchkit.data.impact import Impacts
from researchkit.data.streaming import Piece
from researchkit.data.upkeep import Upkeep
from researchkit.errors import NotFound
from researchkit.frames import BARS as CONTRACT
from researchkit.frames import conform

DATE = ns("2024-03-01")
TEN, NOON = ns("2024-03-01T10:00"), ns("2024-03-01T12:00")
BEFORE = [
    Trade(TEN - 10**9, "AAA", 99.5, 3, 1),
    Trade(TEN, "AAA", 100.0, 5, 2),
    Trade(NOON, "BBB", 20.0, 1, 3),
]
AFTER = [BEFORE[0], BEFORE[2]]  # the trade of 10:00:00 was cancelled


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """The file of the day as it was first sent, and its new version of 16:30 without the cancelled trade."""
    held = Place(tmp_path)
    held.clock[0] = ns("2024-03-01T15:00")
    held.bring(trades_file(BEFORE, (DATE, DATE + DAY)), "day.dbn.zst")
    held.pins.create("afternoon", [TRADES], context=ME)
    held.clock[0] = ns("2024-03-01T16:30")
    held.bring(trades_file(AFTER, (DATE, DATE + DAY)), "day.dbn.zst")
    return held


def prices(frame: pl.DataFrame) -> list[float]:
    return [float(p) for p in frame["price"]]


def test_the_worked_correction(place: Place) -> None:
    assert prices(place.scan(asof="2024-03-01T12:00:01")) == [99.5, 100.0, 20.0]
    assert prices(place.scan(asof="2024-03-01T16:29:59")) == [99.5, 100.0, 20.0]
    assert prices(place.scan(asof="2024-03-01T17:00")) == [99.5, 20.0]
    assert prices(place.scan()) == [99.5, 20.0]
    assert prices(place.scan(pin="afternoon")) == [99.5, 100.0, 20.0]
    [found] = Impacts(registry=place.registry, lake=place.lake).touched(TRADES, context=ME)
    assert [p.name for p in found.pins] == ["afternoon"]
    assert found.published_ns == ns("2024-03-01T16:30")
    assert found.rows.rows() == [("AAA", datetime(2024, 3, 1, tzinfo=UTC).date(), 1, 0)]


def test_another_edition_of_the_rows_that_a_decision_saw(place: Place) -> None:
    assert prices(place.scan(asof="2024-03-01T12:00:01", published="2024-03-01T17:00")) == [99.5, 20.0]
    assert prices(place.scan(published="2024-03-01T16:00")) == [99.5, 100.0, 20.0]
    assert prices(place.scan(asof="2024-03-01T17:00", published="2024-03-01T16:00")) == [99.5, 100.0, 20.0]
    assert prices(place.scan(asof="2024-03-01T11:00", published="2024-03-01T17:00")) == [99.5]
    body = place.door.ledger.entries(kind="read")[-1].body
    assert (body["asof"], body["published"]) == (ns("2024-03-01T11:00"), ns("2024-03-01T17:00"))


def test_a_row_that_comes_back_is_there_again(place: Place) -> None:
    place.clock[0] = ns("2024-03-04T09:00")
    place.bring(
        trades_file(
            [*AFTER, Trade(TEN, "AAA", 100.0, 5, 2), Trade(NOON, "AAA", 101.0, 2, 9)], (DATE, DATE + DAY)
        ),
        "day.dbn.zst",
    )
    assert prices(place.scan(asof="2024-03-01T17:00")) == [99.5, 20.0]
    assert sorted(prices(place.scan(asof="2024-03-04T09:00"))) == [20.0, 99.5, 100.0, 101.0]
    assert [prices(place.scan(symbols="AAA", asof=t)) for t in ("2024-03-01T16:00", "2024-03-01T18:00", "2024-03-05")] == [
        [99.5, 100.0], [99.5], [99.5, 100.0, 101.0],
    ]  # fmt: skip


def test_a_filter_never_brings_a_row_back(place: Place) -> None:
    lazy = place.lake.scan(TRADES, context=ME)
    assert lazy.filter(pl.col("price") == 100).collect().height == 0
    assert lazy.filter((pl.col("symbol") == "AAA") & (pl.col("price") > 99)).collect()["price"].len() == 1
    assert lazy.filter(pl.col("sequence") == 2).collect().height == 0
    assert (
        lazy.filter(pl.col("ts_event") == datetime(2024, 3, 1, 10, tzinfo=UTC))
        .select("price")
        .collect()
        .height
        == 0
    )
    old = place.lake.scan(TRADES, asof="2024-03-01T13:00", context=ME)
    assert prices(old.filter(pl.col("sequence") == 2).collect()) == [100.0]


def test_when_everything_was_taken_back_there_is_nothing(place: Place) -> None:
    place.clock[0] = ns("2024-03-05")
    place.bring(trades_file([Trade(NOON, "BBB", 20.0, 1, 3)], (DATE, DATE + DAY)), "day.dbn.zst")
    with pytest.raises(
        NotFound, match=f"no rows of {TRADES} of AAA: there is 2024-03-01T09:59:59 to 2024-03-01T10:00:00"
    ):
        place.scan(symbols="AAA")
    assert prices(place.scan(symbols="AAA", asof="2024-03-01T17:00")) == [99.5]


def test_whoever_asks_too_early_is_told_since_when(place: Place) -> None:
    with pytest.raises(NotFound, match=r"first known at 2024-03-01T09:59:59\.000001$"):
        place.scan(asof="2024-03-01T09:00")
    assert prices(place.scan(asof="2024-03-01T09:59:59.000001")) == [99.5]


def day_of(rows: list[Trade], symbol: str) -> bytes:
    return trades_file([t for t in rows if t.symbol == symbol], (DATE, DATE + DAY), (symbol,))


def test_each_restatement_reports_its_own_rows_whatever_was_merged(tmp_path: Path) -> None:
    held = Place(tmp_path)
    for symbol in ("AAA", "BBB"):
        held.bring(day_of(BEFORE, symbol), symbol)
    late = [Trade(NOON, "CCC", 5.0, 1, 4), Trade(NOON + 1, "CCC", 6.0, 1, 5)]
    held.bring(day_of(late, "CCC"), "CCC")
    held.pins.create("before", [TRADES], context=ME)
    fixed = [BEFORE[0], Trade(TEN, "AAA", 101.0, 5, 2), Trade(TEN + 1, "AAA", 7.0, 1, 9)]
    four = datetime(2024, 3, 1, 16, tzinfo=UTC)
    early = held.bring(day_of(late[:1], "CCC"), "CCC", published=datetime(2024, 3, 1, 1, tzinfo=UTC))
    one = held.bring(day_of(fixed, "AAA"), "AAA", published=four)
    two = held.bring(day_of([Trade(NOON, "BBB", 21.0, 1, 3)], "BBB"), "BBB", published=four)

    def told() -> dict[str, tuple[int, int, list[tuple[str, int, int]], list[str]]]:
        found = Impacts(registry=held.registry, lake=held.lake).touched(TRADES, context=ME)
        return {
            f.raw_sha256: (f.retracted, f.added, f.rows.drop("day").rows(), [p.name for p in f.pins])
            for f in found
        }

    said = told()
    assert said[one] == (1, 2, [("AAA", 1, 2)], ["before"])
    assert said[two] == (1, 1, [("BBB", 1, 1)], ["before"])
    assert said[early] == (1, 0, [("CCC", 1, 0)], ["before"])
    lake = held.lake
    tended = Upkeep(
        storage=lake.storage, registry=held.registry, door=held.door, catalog=lambda: lake.catalog
    )
    assert [m.files for m in tended.compact(TRADES, context=ME)] == [6]
    assert told() == said
    with pytest.raises(ValueError, match="name these objects too"):
        held.scan(objects=[one])
    assert held.scan(objects=list(lake_objects(held))).height == held.scan().height
    tended.expire(TRADES, keep=1, context=ME)
    tended.orphans(TRADES, context=ME, older=-(10**18))
    merged = told()
    assert {k: v[:2] for k, v in merged.items()} == {k: v[:2] for k, v in said.items()}
    assert all(v[3] == ["before"] for v in merged.values())


def lake_objects(held: Place) -> set[str]:
    return {r["raw_sha256"] for r in held.registry.rows("SELECT raw_sha256 FROM ingests")}


def test_a_tick_is_known_when_it_was_received_and_a_clock_that_runs_behind_tells_nothing_earlier(
    tmp_path: Path,
) -> None:
    held = Place(tmp_path)
    ticks = [Trade(NOON, "AAA", 1.0, late=5 * 10**9), Trade(NOON + 1, "AAA", 2.0, sequence=1, late=-(10**9))]
    held.bring(trades_file(ticks, (DATE, DATE + DAY)), "ticks")
    with pytest.raises(NotFound):
        held.scan(asof=NOON)
    assert prices(held.scan(asof=NOON + 1)) == [2.0]
    assert prices(held.scan(asof=NOON + 5 * 10**9)) == [1.0, 2.0]
    both = held.scan().select(pl.col("ts_known", "ts_published").to_physical())
    assert both.rows() == [(NOON + 5 * 10**9,) * 2, (NOON + 1,) * 2]


def test_what_can_be_worked_out_is_not_stored_and_makes_a_file_plain(place: Place) -> None:
    of = place.lake.asked(TRADES, context=ME)
    assert [p.plain for p in sorted(of.pieces, key=lambda p: p.rows)] == [False, True]
    first = max(of.pieces, key=lambda p: p.rows)
    stored = pl.read_parquet(place.root / "lake" / first.path)
    assert (stored["ts_known"].null_count(), stored["ts_published"].null_count()) == (3, 3)
    assert isinstance(first, Piece)


def bars(sessions: int, plus: float = 0.0) -> pl.DataFrame:
    days = [datetime(2024, 2, 1, tzinfo=UTC) + timedelta(days=i) for i in range(sessions)]
    known, price = pl.col("ts_event") + pl.duration(days=1), pl.col("ts_event").dt.day() + 100.0 + plus
    rows = pl.DataFrame({"ts_event": days, "symbol": ["SPX"] * sessions, "volume": 10})
    return conform(
        rows.with_columns(ts_known=known, ts_published=known, open=price, high=price, low=price, close=price),
        CONTRACT,
    )


def test_a_restated_bar_is_a_newer_version_of_its_key(tmp_path: Path) -> None:
    held = Place(tmp_path)
    held.bars(bars(20), "february.dbn.zst")
    held.bars(bars(3, plus=0.5), "fix.dbn.zst", published=datetime(2024, 3, 10, tzinfo=UTC))
    first = [held.scan(BARS, asof=t)["close"][0] for t in ("2024-03-09", "2024-03-10")]
    assert [float(c) for c in first] == [101.0, 101.5]
    assert held.scan(BARS).height == 20
    found = held.scan(BARS)
    assert found["ts_published"][0] == datetime(2024, 3, 10, tzinfo=UTC)
    assert (found["ts_published"] == found["ts_known"]).sum() == 17
