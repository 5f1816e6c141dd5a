"""`researchkit parity`: files, folders and runs on either side, and an exit code that a night job can trust."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from typer import Typer
from typer.testing import CliRunner
from worlds import market, run, targets

from researchkit.commands.parity import parity
from researchkit.operations.sides import side
from researchkit.workspace import open as open_workspace

LINE = Typer()
LINE.command()(parity)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two runs of one strategy and one of another, and the files of the first."""
    root = tmp_path_factory.mktemp("parity")
    bars = market(5, holes=0.0)
    signals = targets(bars, 5)
    ws = open_workspace(root / "ws")
    for title, wish in (("first", signals), ("again", signals), ("other", targets(bars, 6))):
        with ws.run(title, hypothesis="H-1") as trial:
            trial.log(result=run(bars, wish, title), signals=wish)
    result, files = run(bars, signals, "first"), root / "old"
    files.mkdir()
    evening = (pl.col("ts_known") - timedelta(days=1)).dt.date()
    result.equity.select(Date=evening, NAV="equity").write_csv(files / "account.csv")
    result.fills.select(Date=pl.col("ts_event").dt.date(), Ticker="symbol", Qty="quantity", Px="price").write_parquet(files / "fills.parquet")  # fmt: skip
    signals.select(Date=evening, Ticker="symbol", Weight="target").write_csv(files / "signals.csv")
    return root


def runs(place: Path) -> dict[str, str]:
    """The ids of the runs by their titles."""
    rows = open_workspace(place / "ws").warehouse.rows("trials")
    return {row["title"]: row["id"] for row in rows}


def asked(place: Path, *words: str) -> tuple[int, dict]:
    """What the command says as JSON."""
    seen = CliRunner().invoke(LINE, [*words, "--workspace", str(place / "ws"), "--json"])
    return seen.exit_code, json.loads(seen.stdout)


def test_the_files_of_a_run_are_the_run(place: Path) -> None:
    code, told = asked(place, str(place / "old"), runs(place)["first"], "--capital", "1000000")
    assert code == 0
    states = {level["level"]: level["state"] for level in told["levels"]}
    assert [n for n, s in states.items() if s == "identical"] == ["equity", "daily P&L", "fills", "signals"]
    assert states["features"] == "not given by either"


def test_two_runs_of_one_strategy_agree(place: Path) -> None:
    named = runs(place)
    code, told = asked(place, named["first"], named["again"] + "/main")
    assert (code, told["agrees"], told["broke"]) == (0, True, None)


def test_another_strategy_breaks_at_its_signals(place: Path) -> None:
    named = runs(place)
    code, told = asked(place, named["first"], named["other"])
    assert (code, told["agrees"], told["broke"]) == (1, False, "signals")


def test_one_changed_digit_fails_the_night(place: Path, tmp_path: Path) -> None:
    text = (place / "old" / "account.csv").read_text().splitlines()
    day, value = text[30].split(",")
    text[30] = f"{day},{float(value) + 0.01!r}"
    (tmp_path / "account.csv").write_text("\n".join(text))
    before = str(place / "old" / "account.csv")
    code, told = asked(place, before, str(tmp_path / "account.csv"))
    assert (code, told["levels"][0]["differing"]) == (1, 1)
    assert asked(place, before, str(tmp_path / "account.csv"), "--absolute", "0.02")[0] == 0


def test_an_empty_file_does_not_pass(place: Path, tmp_path: Path) -> None:
    (tmp_path / "account.csv").write_text("Date,NAV\n")
    code, told = asked(place, str(tmp_path / "account.csv"), str(place / "old" / "account.csv"))
    assert (code, told["agrees"]) == (1, False)
    code, told = asked(place, str(tmp_path / "account.csv"), str(tmp_path / "account.csv"))
    assert (code, told["agrees"]) == (1, False)


def test_a_file_that_was_tampered_with_in_the_archive_is_refused(place: Path) -> None:
    ws = open_workspace(place / "ws")
    (row,) = ws.warehouse.rows("artifacts", trial=runs(place)["again"], name="fills.parquet")
    path = ws.archive.path(row["archive_path"])
    data = path.read_bytes()
    path.chmod(0o644)
    try:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(Exception, match="fills"):
            side(runs(place)["again"], ws=ws)
    finally:
        path.write_bytes(data)
