"""A pin stays what it is: whatever is merged, forgotten or restated, here and on a machine that knows nothing of us."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tick_lake import DAY, ME, TRADES, Place, as_trades, ns, trades_file, walk
from typer.testing import CliRunner

import researchkit
from researchkit.cli import app
from researchkit.commands import pins as commands  # noqa: F401  adds itself to `data`
from researchkit.data.contents import content_of
from researchkit.data.filelists import listed, pinned_paths, pins_with
from researchkit.data.pinbook import book_of, read_book, verify_book
from researchkit.data.registry import insert
from researchkit.data.upkeep import Upkeep
from researchkit.errors import IntegrityError, NotFound
from researchkit.frames import TRADES as TICKS
from researchkit.frames import logical_hash

DATE = ns("2024-03-01")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of trades, pinned, and the first of them restated."""
    place = Place(tmp_path_factory.mktemp("pins"))
    for day in range(2):
        place.bring(walk(500, DATE + day * DAY, ("AAA", "BBB"), seed=day), f"day{day}")
    place.pins.create("first", [TRADES], context=ME)
    return place.root


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Place:
    """A copy of it."""
    shutil.copytree(made, tmp_path / "copy")
    held = Place(tmp_path / "copy")
    held.clock[0] = ns("2024-03-10")
    return held


def upkeep(place: Place) -> Upkeep:
    lake = place.lake
    return Upkeep(
        storage=lake.storage,
        registry=place.registry,
        door=place.door,
        catalog=lambda: lake.catalog,
        clock=lambda: 2 * 10**18,
    )


def restate(place: Place) -> None:
    """The first day again, without its first ten trades."""
    kept = as_trades(place.scan(end="2024-03-02"))[10:]
    place.bring(trades_file(kept, (DATE, DATE + DAY)), "day0")


def test_a_pin_survives_compaction_expiry_and_the_removal_of_orphans(place: Place) -> None:
    first = place.pins.get("first")
    before = place.scan(pin="first")
    restate(place)
    second = place.pins.create("second", [TRADES], context=ME)
    tended = upkeep(place)
    merged = tended.compact(TRADES, context=ME)
    assert [(m.part, m.files) for m in merged] == [("day=2024-03-01", 2)]
    third = place.pins.create("third", [TRADES], context=ME)
    assert third.id == second.id, "merging files changes no row"
    assert place.scan(pin="first").equals(before)
    assert place.scan().height == before.height - 10
    tended.expire(TRADES, keep=1, context=ME)
    tended.orphans(TRADES, context=ME, older=0)
    assert place.scan(pin="first").equals(before)
    assert logical_hash(place.scan(pin="second"), TICKS) == second.tables[0].logical_hash
    assert all(f.ok for name in ("first", "second", "third") for f in place.pins.findings(name))
    assert all(f.ok for f in place.lake.verify())
    assert {f.path for f in first.tables[0].files} <= pinned_paths(place.registry, TRADES)
    place.door.ledger.verify(full=True)


def test_equal_lists_are_kept_once(place: Place) -> None:
    count = "SELECT (SELECT COUNT(*) FROM pin_lists) AS lists, (SELECT COUNT(*) FROM pin_parts) AS parts"
    for day in range(3):
        place.bring(walk(50, ns("2024-04-01") + day * DAY, ("AAA", "BBB"), seed=9 + day), f"april{day}")
        place.pins.create(f"night{day}", [TRADES], context=ME)
    found = place.registry.one(count)
    assert found == {"lists": 4, "parts": 7}, "March is one list of four pins, April another each night"
    april = listed(place.registry, place.pins.get("night2").id, TRADES, start=ns("2024-04-02"))
    assert pins_with(place.registry, TRADES, [april[-1].piece.path]) == {place.pins.get("night2").id}
    assert place.registry.one("SELECT COUNT(*) AS n FROM pin_files") == {"n": 0}


def test_a_pin_of_an_earlier_version_is_read_from_its_rows(place: Place) -> None:
    pin = place.pins.get("first")
    rows = [
        {"pin_id": pin.id, "table_name": TRADES, "path": f.path, "bytes": f.bytes, "sha256": f.sha256}
        for f in pin.tables[0].files
    ]
    forget = [(f"DELETE FROM {t} WHERE 1 = :x", [{"x": 1}]) for t in ("pin_parts", "pin_lists")]
    forget.append(("UPDATE pin_tables SET assumed = NULL WHERE 1 = :x", [{"x": 1}]))
    place.registry.write(*forget, (insert("pin_files", rows[0]), rows))
    restate(place)
    again = Place(place.root)
    old = again.pins.get("first")
    assert (old.id, old.tables[0].files, old.tables[0].assumed) == (pin.id, pin.tables[0].files, None)
    assert logical_hash(again.scan(pin="first"), TICKS) == pin.tables[0].logical_hash
    assert all(f.ok for f in again.pins.verify("first"))
    assert pinned_paths(again.registry, TRADES) == {f.path for f in pin.tables[0].files}
    assert [f.ok for f in verify_book(book_of(old, again.registry), again.root / "lake")] == [True] * 4
    with pytest.raises(NotFound, match="no table in this pin 'DEMO/ohlcv-1d'"):
        again.lake.files.pinned(researchkit.context.parse_table("DEMO/ohlcv-1d"), pin.id)


@pytest.mark.attack("a list of a pin edited", tier="embedded")
def test_a_list_that_was_touched_is_noticed(place: Place) -> None:
    place.registry.write(
        ("UPDATE pin_lists SET files = REPLACE(files, '\"AAA\"', '\"AAB\"') WHERE 1 = :x", [{"x": 1}])
    )
    again = Place(place.root)
    for use in (lambda: again.scan(pin="first"), lambda: again.pins.get("first")):
        with pytest.raises(IntegrityError, match=r"pin list [0-9a-f]{12}: SHA-256 must be"):
            use()


def test_publication_is_exact_only_where_every_instant_was_recorded(place: Place) -> None:
    assert place.pins.get("first").tables[0].assumed == 1_000
    with pytest.raises(
        ValueError,
        match=r"1,000 of 1,000 rows of XNAS\.TEST/trades only count as published when they were known",
    ):
        place.pins.create("exact", [TRADES], publication="exact", context=ME)
    restate(place)
    assert place.pins.create("restated", [TRADES], context=ME).tables[0].assumed == 990


def definition(ticks: pl.DataFrame, most: int, piece: int) -> str:
    """The hash as it is written down, over frames that are there whole."""
    if ticks.height <= most:
        return logical_hash(ticks, TICKS)
    lines = []
    for (day,), rows in ticks.group_by(pl.col("ts_event").dt.date(), maintain_order=True):
        parts = [logical_hash(rows.slice(at, piece), TICKS) for at in range(0, rows.height, piece)]
        lines.append(f"{day}:{rows.height}:{parts[0] if len(parts) == 1 else joined(parts)}")
    return joined(["trades:days", *lines])


def joined(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@settings(max_examples=8, deadline=None)
@given(
    cutting=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    most=st.sampled_from((10, 200, 5_000)),
    piece=st.sampled_from((90, 170, 1_000)),
)
def test_the_hash_of_contents_does_not_depend_on_how_they_arrive(
    ticks: pl.DataFrame, cutting: list[int], most: int, piece: int
) -> None:
    whole = content_of([ticks], TICKS, most=most, piece=piece)
    parts, place = [], 0
    for rows in cutting:
        parts.append(ticks.slice(place, rows))
        place += rows
    assert content_of([*parts, ticks.slice(place)], TICKS, most=most, piece=piece) == whole
    assert whole.digest == definition(ticks, most, piece)
    assert whole.method == ("rows" if ticks.height <= most else "days")
    assert content_of([ticks.slice(1)], TICKS, most=most, piece=piece).digest != whole.digest


@pytest.fixture(scope="module")
def ticks(made: Path) -> pl.DataFrame:
    return Place(made).scan()


def test_a_book_is_checked_where_nothing_else_is(place: Place, tmp_path: Path) -> None:
    text = book_of(place.pins.get("first"), place.registry)
    away = tmp_path / "away"
    for file in read_book(text)[0].tables[0].files:
        (away / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place.root / "lake" / file.path, away / file.path)
    assert [f.kind for f in verify_book(text, away)] == ["pin", "lake file", "lake file", "rows"]
    assert all(f.ok for f in verify_book(text, away))
    told = json.loads(text)
    told["tables"][0]["files"].reverse()
    assert all(f.ok for f in verify_book(json.dumps(told), away))
    told["tables"][0]["files"].pop()
    assert [f.ok for f in verify_book(json.dumps(told), away)] == [True, True, False]
    told["tables"][0]["logical_hash"] = "0" * 64
    assert [f.ok for f in verify_book(json.dumps(told), away)] == [False, True, False]
    for wrong in (
        "[]",
        "7",
        '{"format": "researchkit pin 1"}',
        "{",
        text.replace('"rows": 1000', '"rows": "many"'),
    ):
        with pytest.raises(IntegrityError, match="this is no book of a pin"):
            read_book(wrong)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "ws"
    ws = researchkit.open(root)
    (root / "policy" / "grants.json").write_text(
        (Path(Place(tmp_path / "other").root) / "policy" / "grants.json").read_text()
    )
    for day in range(2):
        kept = ws.raw.put(walk(50, DATE + day * DAY, ("AAA",), seed=day), name=f"day{day}", key="market")
        ws.lake.ingest(kept.sha256)
    shell = CliRunner()

    def typed(*words: object) -> Any:
        return shell.invoke(app, [*map(str, words), "-w", str(root)])

    one = json.loads(typed("data", "pin", "create", "one", TRADES, "--object", kept.sha256, "--json").stdout)
    assert [(r["pin"], r["rows"], r["assumed"]) for r in one] == [("one", 50, 50)]
    assert "only count as published" in str(
        typed("data", "pin", "create", "all", TRADES, "--exact").exception
    )
    assert [r["pin"] for r in json.loads(typed("data", "pin", "ls", "--json").stdout)] == ["one"]
    shown = typed("data", "pin", "show", "one").stdout
    assert "not shown for want of room: method" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert one[0]["logical hash"][:12] in shown
    seen = typed("lake", "head", TRADES).stdout
    assert max(len(line) for line in seen.splitlines()[:-1]) <= 80
    assert len(re.findall(r"2024-03-0\d[ T]\d\d:\d\d:\d\d", seen)) >= 5, "no instant is broken over lines"
    assert "(all versions)" in typed("lake", "tables").stdout
    assert len(json.loads(typed("data", "pin", "show", "one", "--files", "--json").stdout)) == 1
    book = tmp_path / "one.json"
    assert typed("data", "pin", "export", "one", "--to", book).exit_code == 0
    assert typed("data", "pin", "export", "one").stdout == book.read_text()
    assert typed("data", "pin", "verify", "one").stdout == "all 2 hold\n"
    away = shell.invoke(
        app, ["data", "pin", "verify", "--book", str(book), "--folder", str(root / "lake"), "--json"]
    )
    assert (away.exit_code, [f["ok"] for f in json.loads(away.stdout)]) == (0, [True, True, True])
    book.write_text(book.read_text().replace('"rows": 50', '"rows": 51'))
    broken = shell.invoke(app, ["data", "pin", "verify", "--book", str(book), "--folder", str(root / "lake")])
    assert broken.exit_code == 1
    assert broken.stdout.splitlines()[-1] == "1 of 3 hold"
    assert json.loads(typed("data", "impact", TRADES, "--json").stdout) == []
    assert "no restatement" in str(typed("data", "impact", "0" * 12).exception)
