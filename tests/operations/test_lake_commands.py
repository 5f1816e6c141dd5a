"""A day's work on a lake at the command line: every command answers with JSON, and what it says is true."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from killing_lake import BARS, TICKS, granted, minutes, removed, trades
from test_commands import refused, said, typed

pytestmark = pytest.mark.xdist_group("lake commands")
TRIED = {
    "data_ingest", "data_orders", "data_coverage", "data_impact", "data_quality", "data_catalog", "data_describe",
    "data_lineage", "data_record", "lake_compact", "lake_orphans", "lake_expire", "lake_rewrite", "lake_layout",
    "lake_instruments", "lake_continuous", "lake_sessions", "lake_actions", "access_grant",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A workspace with two days of trades, one of them restated, and three files of bars, brought in by the command."""
    place = tmp_path_factory.mktemp("lake-commands")
    granted(place / "workspace")
    for day in range(2):
        bring(place, f"ticks-{day}.trades.dbn.zst", trades(day))
    for part in range(3):
        bring(place, f"bars-{part}.ohlcv-1m.dbn.zst", minutes(part))
    yield place / "workspace"
    removed(place / "workspace")


def bring(place: Path, name: str, content: bytes) -> Any:
    """Write a file as a vendor would send it, and take it in."""
    path = place / name
    path.write_bytes(content)
    return said("data", "ingest", path, at=place / "workspace")


def test_what_was_taken_in_is_there_and_taking_it_in_again_changes_nothing(root: Path) -> None:
    tables = {row["table"]: row["rows"] for row in said("lake", "tables", at=root)}
    assert tables == {TICKS: 800, BARS: 360}
    bring(root.parent, "ticks-0.trades.dbn.zst", trades(0))
    assert {row["table"]: row["rows"] for row in said("lake", "tables", at=root)} == tables
    assert said("lake", "head", BARS, "-n", "3", at=root)[0]["open"] == "100.000000000"


def test_a_restated_file_is_a_correction_and_what_it_touches_is_named(root: Path) -> None:
    said("data", "pin", "create", "early", TICKS, at=root)
    before = said("lake", "head", TICKS, "-n", "900", at=root)
    [came] = bring(root.parent, "ticks-0.trades.dbn.zst", trades(0, cancelled=100))
    assert (came["retracted"], came["pins"]) == (1, ["early"])
    original = hashlib.sha256(trades(0)).hexdigest()[:12]
    assert f"restated by {came['raw'][:12]} on " in refused("data", "impact", original, at=root)
    after = said("lake", "head", TICKS, "-n", "900", at=root)
    assert (len(before), len(after)) == (800, 799)
    assert all(row in before for row in after)
    told = json.dumps(said("data", "impact", TICKS, at=root))
    assert "early" in told
    book = root.parent / "early.json"
    assert typed("data", "pin", "export", "early", "--to", book, at=root).exit_code == 0
    assert typed("data", "pin", "verify", "early", at=root).exit_code == 0
    elsewhere = typed("data", "pin", "verify", "--book", book, "--folder", root / "lake")
    assert elsewhere.exit_code == 0, elsewhere.output


def test_upkeep_changes_files_and_no_row(root: Path) -> None:
    rows = said("lake", "head", BARS, "-n", "400", at=root)
    files = said("lake", "layout", BARS, at=root)
    for words in ("compact", "rewrite", "expire", "orphans"):
        said("lake", words, BARS, at=root)
    assert said("lake", "layout", BARS, at=root) == files
    assert "nothing was done" in refused("lake", "compact", BARS, "--yes", "no", at=root)
    for words in ("compact", "rewrite", "expire", "orphans"):
        said("lake", words, BARS, "--yes", BARS, at=root)
    assert said("lake", "layout", BARS, at=root)[0]["files"] == 1
    assert said("lake", "head", BARS, "-n", "400", at=root) == rows


@pytest.mark.parametrize(
    "words",
    [
        ("data", "ls"), ("data", "catalog"), ("data", "orders"), ("data", "pin", "ls"), ("data", "impact", TICKS),
        ("data", "describe", BARS), ("lake", "tables"), ("lake", "head", TICKS), ("lake", "layout", BARS),
        ("lake", "sessions", "CMES", "--from", "2024-07-01"), ("access", "explain", "quant7", "read", "DEMO/mbo"),
    ],
)  # fmt: skip
def test_no_column_is_squeezed_in_a_narrow_terminal(
    root: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name, a number and an instant stand whole: what has no room is folded by record or left out."""
    monkeypatch.setenv("COLUMNS", "80")
    shown = typed(*words, at=root).stdout
    tables = [line for line in shown.splitlines() if line.startswith(("┃", "│"))]
    assert all(len(line) <= 80 for line in tables)
    short = [cell.strip() for line in tables for cell in line.strip("┃│ ").replace("┃", "│").split("│")]
    assert not [cell for cell in short if cell.isalpha() and len(cell) == 1], shown


def test_upkeep_says_once_what_it_did(root: Path) -> None:
    shown = typed("lake", "expire", TICKS, "--keep", "1", "--yes", TICKS, at=root).stdout
    assert shown.count("forgotten") == 2, "in the table, and in the sentence"
    assert shown.splitlines()[-1].startswith("done: ")


def test_what_there_is_and_where_it_came_from(root: Path) -> None:
    said("data", "describe", BARS, "--words", "minutes of nothing", "--licence", "none", at=root)
    assert said("data", "catalog", "minutes of nothing", at=root)[0]["table"] == BARS
    assert "none" in json.dumps(said("data", "describe", BARS, at=root))
    names = json.dumps(said("data", "lineage", BARS, at=root))
    assert all(f"bars-{part}" in names for part in range(3))
    looked = typed("data", "quality", BARS, "--json", at=root)
    assert json.loads(looked.stdout)
    assert "no table 'TEST.BARZ/ohlcv-1m'" in refused("data", "quality", "TEST.BARZ/ohlcv-1m", at=root)


def test_instruments_sessions_and_actions(root: Path) -> None:
    assert json.dumps(said("lake", "instruments", "TEST.TICKS", "AAA", at=root)).count("AAA")
    days = said("lake", "sessions", "XNYS", "--from", "2024-07-01", "--to", "2024-07-06", at=root)
    assert [row["half"] for row in days] == [False, False, True, False]
    file = root.parent / "splits.csv"
    file.write_text("ex,symbol,kind,ratio\n2024-08-09,AAA,split,2\n")
    assert typed("lake", "actions", "ACME", "--add", file, "--licence", "own", at=root).exit_code == 0
    assert [row["kind"] for row in said("lake", "actions", "ACME", at=root)] == ["split"]
    assert refused("lake", "continuous", "AA.c.0", "TEST.TICKS", at=root)


def test_without_a_vendor_nothing_is_bought_and_the_sentence_says_what_is_missing(root: Path) -> None:
    assert said("data", "orders", at=root) == []
    assert said("data", "coverage", at=root) == []
    span = ("--symbols", "AAA", "--from", "2024-08", "--to", "2024-08")
    assert "vendor_url" in refused(
        "data", "ingest", "--dataset", "TEST.TICKS", "--schema", "trades", *span, at=root
    )
    feed = ("--dataset", "TEST.TICKS", "--schema", "trades", "--symbols", "AAA")
    words = refused("data", "record", *feed, at=root)
    assert "only with a legal sign-off" in words
    assert "Sign-off is not in this version: only the censored sample is ordered." in words
    assert said("data", "record", *feed, "--missing", at=root) == []


def test_a_grant_is_on_the_ledger_and_lets_a_role_read(root: Path) -> None:
    before = typed("access", "explain", "quant7", "read", "TEST.OTHER/trades", "--roles", "risk", at=root)
    given = said("access", "grant", "risk", "read", "TEST.OTHER/*", at=root)
    after = typed("access", "explain", "quant7", "read", "TEST.OTHER/trades", "--roles", "risk", at=root)
    assert (before.exit_code, given[0]["new"], after.exit_code) == (1, True, 0)
    assert "researchkit access grant risk read TEST.OTHER/trades" in " ".join(before.stdout.split())
    assert said("ledger", "show", "--kind", "grant", "--json", at=root)[0]["subject"] == "table:TEST.OTHER/*"
