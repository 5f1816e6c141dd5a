"""Surveys of a lake, as of an instant and with what was kept out; the catalog and lineage at size, from the registry alone."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

import researchkit
from researchkit import frames
from researchkit.commands.data import data
from researchkit.commands.quality import data_quality
from researchkit.data.catalog import Catalog
from researchkit.data.encode import encode_bars
from researchkit.data.lineage import holders, lineage, origins
from researchkit.data.registry import Registry, insert
from researchkit.data.survey import Quality
from researchkit.errors import AccessDenied, NotFound

DAY = 86_400_000_000_000


def daily(symbols: tuple[str, ...] = ("SPX", "COMP"), days: int = 60) -> pl.DataFrame:
    """Clean daily bars on the weekdays from January 2013 on; the close of one of them is impossible."""
    when = [
        d for n in range(days) if (d := datetime.fromtimestamp(1_357_084_800 + n * 86400, UTC)).weekday() < 5
    ]
    parts = []
    for s in symbols:
        close = [100 + (n * 7 % 11) / 10 for n in range(len(when))]
        made = {"ts_event": when, "symbol": s, "open": 100.55, "high": 102.0, "low": 99.0, "close": close}
        parts.append(pl.DataFrame(made | {"volume": range(5, 5 + len(when))}))
    rows = pl.concat(parts).with_columns(
        pl.col("ts_event").cast(frames.INSTANT), open=99.3 + pl.col("volume") / 100,
        close=pl.when((pl.col("symbol") == "SPX") & (pl.col("volume") == 20)).then(105.0).otherwise("close"),
    )  # fmt: skip
    known = pl.col("ts_event").dt.offset_by("1d")
    return frames.conform(rows.with_columns(ts_known=known, ts_published=known), frames.BARS)


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = researchkit.open(tmp_path_factory.mktemp("quality") / "ws")
    sent = made.raw.put(encode_bars(daily(), dataset="DEMO"), name="daily.dbn.zst", key="market")
    made.lake.ingest(sent.sha256)
    return made


@pytest.fixture(scope="module")
def quality(ws: Any) -> Quality:
    return Quality(ws._lake, registry=ws.registry, door=ws.door)


def test_a_survey_sees_what_was_known_then_and_writes_down_what_it_found(ws: Any, quality: Quality) -> None:
    now = quality.check("DEMO/ohlcv-1d", context=ws.context)
    found = now.findings.select("check", "symbol", "rows").rows()  # two bars lie on public holidays
    assert found == [("high_low", "SPX", 1), ("outside", "COMP", 2), ("outside", "SPX", 2)]
    before = quality.check("DEMO/ohlcv-1d", asof="2013-01-15", context=ws.context)
    assert (before.seen, before.ok, before.rows) == ("as of 2013-01-15", True, 18)
    assert before.last < datetime(2013, 1, 15, tzinfo=UTC)
    last = quality.last("DEMO/ohlcv-1d")
    assert last is not None
    assert last["rows"] == 18
    assert last["seen"] == "as of 2013-01-15"
    assert quality.last("DEMO/trades") is None


def test_a_survey_asks_only_for_the_columns_it_needs(ws: Any, quality: Quality) -> None:
    quality.check("DEMO/ohlcv-1d", context=ws.context)
    read = ws.ledger.entries(kind="read", limit=1)[0].body["columns"]
    assert "ts_published" not in read
    assert {"ts_event", "symbol", "close"} <= set(read)


def test_what_was_kept_out_is_part_of_the_report(ws: Any, quality: Quality) -> None:
    row = {
        "raw_sha256": "e" * 64,
        "table_name": "DEMO/ohlcv-1d",
        "reason": "<b>no symbol that day",
        "rows": 7,
    }
    ws.registry.write((insert("quarantined", row), [row]))
    report = quality.check("DEMO/ohlcv-1d", symbols="COMP", context=ws.context)
    assert report.quarantined.select("reason", "rows").rows() == [("<b>no symbol that day", 7)]
    assert not report.ok
    assert "&lt;b&gt;no symbol" in report._repr_html_()
    ws.registry.write(("DELETE FROM quarantined WHERE reason = :reason", [row]))


def test_nobody_surveys_what_he_may_not_read(ws: Any, quality: Quality) -> None:
    entries = len(ws.ledger.entries(kind="quality"))
    with pytest.raises(AccessDenied):
        quality.check("OTHER/ohlcv-1d", context=ws.context)
    assert len(ws.ledger.entries(kind="quality")) == entries


def test_the_command_says_and_exits_by_what_was_found(ws: Any, tmp_path: Path) -> None:
    shell, where = CliRunner(), ["--workspace", str(ws.root)]
    bad = shell.invoke(data, ["quality", "DEMO/ohlcv-1d", "--page", str(tmp_path / "r.html"), *where])
    assert bad.exit_code == 1
    assert "high_low" in bad.stdout
    assert "<script" not in (tmp_path / "r.html").read_text()
    good = shell.invoke(data, ["quality", "DEMO/ohlcv-1d", "--symbols", "COMP", "--json", *where])
    assert good.exit_code == 0
    assert json.loads(good.stdout)["ok"]
    assert data_quality.__doc__


# --- at size, from the registry alone -------------------------------------------------------------------------

SYMBOLS, FILES = 20_000, 20_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A table of twenty thousand symbols and files, one object each, of which a hundred were merged into one."""
    registry = Registry(f"sqlite:///{tmp_path_factory.mktemp('large')}/catalog.db")
    name = {"table_name": "OPRA.PILLAR/trades"}
    symbols = [
        name | {"symbol": f"S{n:05}", "first_ns": n * DAY, "last_ns": n * DAY + 9, "rows": 10, "words": ""}
        for n in range(SYMBOLS)
    ]
    files = [
        name | {"path": f"opra/{n:05}.parquet", "raw_sha256": f"{n:064x}", "bytes": 150, "sha256": "f" * 64, "rows": 10}
        | {"first_ns": n * DAY, "last_ns": n * DAY + 9, "first_symbol": f"S{n:05}", "last_symbol": f"S{n:05}"}
        | {"part": "", "etag": "", "retired_ns": 1 if n < 100 else None}
        for n in range(FILES)
    ]  # fmt: skip
    whole = files[0] | {
        "path": "opra/merged.parquet",
        "raw_sha256": "",
        "rows": 1000,
        "retired_ns": None,
        "last_symbol": "S00099",
    }
    came = [{"path": "opra/merged.parquet", "raw_sha256": f"{n:064x}", "rows": 10} for n in range(100)]
    pinned = {
        "pin_id": "9" * 64,
        "path": "opra/00007.parquet",
        "table_name": "OPRA.PILLAR/trades",
        "bytes": 1,
        "sha256": "f" * 64,
    }
    for table, rows in (
        ("lake_symbols", symbols),
        ("lake_files", [*files, whole]),
        ("file_origins", came),
        ("pin_files", [pinned]),
    ):
        registry.write((insert(table, rows[0]), rows))
    return registry


def test_the_catalog_of_twenty_thousand_symbols_answers_at_once(large: Registry) -> None:
    catalog = Catalog(large, clock=lambda: 10**18)
    began = time.process_time()
    found = catalog.search("s12345 trades")
    assert found["symbols"][0].startswith("S12345, S00000")
    assert found["rows"].to_list() == [10 * SYMBOLS]
    assert found["symbols"][0].endswith(f"and {SYMBOLS - 20:,} more")
    assert catalog.about("OPRA.PILLAR/trades").symbols == SYMBOLS
    with pytest.raises(NotFound, match="no symbol 'S99999'"):
        catalog.describe("OPRA.PILLAR/trades", symbols={"S99999": "x"})
    assert time.process_time() - began < 5  # a fault of design, and not of the machine, would take minutes


def test_lineage_names_the_right_objects_and_counts_the_rest(large: Registry) -> None:
    whole = lineage(large, "OPRA.PILLAR/trades", limit=5)
    assert (whole.total, whole.rows.height) == (FILES, 5)
    part = lineage(large, "OPRA.PILLAR/trades", symbols=["S04242"])
    assert part.rows["raw_sha256"].to_list() == [f"{4242:064x}"]
    merged = lineage(large, "OPRA.PILLAR/trades", symbols=["S00042"], limit=200)
    assert merged.total == 100
    assert f"{42:064x}" in merged.rows["raw_sha256"]
    day = lineage(large, "OPRA.PILLAR/trades", start=500 * DAY, end=502 * DAY)
    assert day.rows["raw_sha256"].to_list() == [f"{501:064x}", f"{500:064x}"]


def test_an_object_leads_to_its_files_and_the_pins_that_still_list_them(large: Registry) -> None:
    found = holders(large, f"{7:064x}").select("kind", "name", "rows").rows()
    assert found == [
        ("file", "opra/merged.parquet", 10),
        ("replaced file", "opra/00007.parquet", 10),
        ("pin", "9" * 64, None),
    ]


def test_a_restated_object_is_counted_once_whatever_ordered_it(large: Registry) -> None:
    sent = {"bytes": 1, "sha256": "f" * 64, "raw_sha256": f"{500:064x}"}
    rows = [sent | {"order_id": o, "name": n} for o, n in (("a", "1"), ("b", "2"))]
    large.write((insert("order_files", rows[0]), rows))
    from researchkit.context import Resource

    found, total = origins(large, Resource("OPRA.PILLAR", "trades", start=500 * DAY, end=501 * DAY))
    assert (total, found["rows"].to_list()) == (1, [10])


def test_actions_have_columns_and_whole_answers_come_alone(ws: Any, tmp_path: Path) -> None:
    pytest.importorskip("panel")
    from researchkit.dashboard.catalog import card

    (tmp_path / "a.csv").write_text("symbol,kind,ex,ratio\nSPX,split,2013-02-01,2\n")
    ws.instruments.bring_actions(tmp_path / "a.csv", "ACME", licence="internal")
    entry = ws.catalog.about("ACME/actions")
    assert entry.columns.filter(pl.col("column") == "ratio")["meaning"].item() == "new shares for an old one"
    assert "new shares for an old one" in card(entry, ws.catalog.lineage("ACME/actions"))
    assert ws.catalog.search("spx splits")["table"].to_list() == ["ACME/actions"]
    assert ws.catalog.search("spx nothing").height == 2
