"""Files of another system: understood to the last cell, or refused by file, row, column and value."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from researchkit.errors import ResearchKitError, SchemaError
from researchkit.experiments.outside import table
from researchkit.operations.sides import of_files
from researchkit.workspace import open as open_workspace

GOOD = "Date,Ticker,Qty,Px\n" + "".join(f"2009-03-{d:02d},0700,{d},{100 + d / 3!r}\n" for d in range(1, 29))


def test_every_double_survives(tmp_path: Path) -> None:
    rng = np.random.default_rng(20260101)
    values = np.concatenate(
        [rng.standard_normal(2000) * 10.0 ** rng.integers(-300, 300, 2000), [0.1, 5e-324, -0.0]]
    )
    days = pl.date_range(pl.date(1990, 1, 1), pl.date(2003, 9, 9), eager=True)[: values.size]
    pl.DataFrame({"date": days, "nav": values}).write_csv(tmp_path / "a.csv")
    found = table(tmp_path / "a.csv")
    assert found["nav"].to_numpy().tobytes() == values.tobytes()
    assert found["date"].equals(days)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("Date", "03/05/2009", "is no ISO day or time"),
        ("Date", "", "nothing is no time"),
        ("Date", "2009-03-05 16:00", "is not written like the rows before it"),
        ("Qty", "n/a", "'n/a' is no number"),
        ("Px", "1,5", "has 5 cells, the header has 4"),
        ("Px", "nan", "'nan' is no number"),
        ("Ticker", "", "no symbol"),
    ],
)
def test_a_bad_cell_is_named(tmp_path: Path, column: str, value: str, words: str) -> None:
    lines = GOOD.splitlines()
    cells = lines[17].split(",")
    cells[lines[0].split(",").index(column)] = value
    lines[17] = ",".join(cells)
    (tmp_path / "fills.csv").write_text("\n".join(lines))
    with pytest.raises(SchemaError) as told:
        of_files(tmp_path / "fills.csv")
    said = str(told.value)
    assert said.startswith("fills.csv: ")
    assert "row 18" in said
    assert words in said
    assert column in said or "cells" in said


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(GOOD) - 1), byte=st.binary(min_size=1, max_size=3))
def test_broken_bytes_are_read_or_refused_in_words(tmp_path: Path, at: int, byte: bytes) -> None:
    """A planted piece of anything: never a traceback of another library, and never fewer rows than lines."""
    data = GOOD.encode()[:at] + byte + GOOD.encode()[at + len(byte) :]
    (tmp_path / "fills.csv").write_bytes(data)
    words = ""
    try:
        found = of_files(tmp_path / "fills.csv").fills
    except ResearchKitError as e:
        words, found = str(e), None
    lines = [x for x in data.replace(b"\r", b"").rstrip(b"\n").split(b"\n") if x]
    whole = found is not None and (found.height == len(lines) - 1 or b'"' in byte or b"\r" in byte)
    assert whole or "fills.csv" in words


def test_a_ticker_is_no_number_and_a_wall_clock_needs_a_wall(tmp_path: Path) -> None:
    ws = open_workspace(tmp_path / "ws")
    (tmp_path / "fills.csv").write_text(GOOD)
    assert ws.load(tmp_path / "fills.csv")["Ticker"].unique().to_list() == ["0700"]
    (tmp_path / "t.csv").write_text("time,nav\n2009-03-09 16:00:00,1\n")
    with pytest.raises(SchemaError, match="says no zone"):
        ws.load(tmp_path / "t.csv")
    assert f"{ws.load(tmp_path / 't.csv', zone='America/New_York')['time'][0]:%H}" == "20"
    old = of_files(tmp_path / "t.csv", zone="America/New_York")
    assert old.equity is not None
    assert f"{old.equity['ts_known'][0]:%d %H}" == "09 20"


def test_positions_that_stand_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "positions.csv").write_text(
        "date,symbol,qty\n2009-03-09,A,1\n2009-03-10,A,2\n2009-03-10,A,2\n"
    )
    with pytest.raises(SchemaError, match=r"positions.csv: row 4: a second position of A"):
        of_files(tmp_path / "positions.csv")
