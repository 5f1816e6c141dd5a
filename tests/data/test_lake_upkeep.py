"""A lake that is tended: the same rows, fewer files, nothing lost by a kill, and nothing removed that somebody needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from lake_kills import ME, TABLE, house, seen, sessions

from researchkit.context import Context, Principal, parse_table
from researchkit.data import tables
from researchkit.data.manifests import MOST, ranges, rewrite_manifests
from researchkit.errors import AccessDenied, IntegrityError

INSTANTS = ("upkeep:after:3",)  # the table has exchanged its files, and the index does not know it yet


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three deliveries that meet at a new year."""
    root = tmp_path_factory.mktemp("upkeep") / "house"
    made = house(root)
    for number, first in enumerate((0, 10, 20)):
        made.bring(f"delivery {number}", sessions(first, first + 10))
    return root


@pytest.fixture
def ws(delivered: Path, tmp_path: Path) -> SimpleNamespace:
    """A copy of them."""
    return house(Path(shutil.copytree(delivered, tmp_path / "house")))


def test_killed_at_instants_of_upkeep_the_rows_stay_and_the_next_one_finishes(tmp_path: Path) -> None:
    program = Path(__file__).parents[1] / "faults" / "lake_kills.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program, tmp_path, *INSTANTS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["wrong"] == {}
    assert set(INSTANTS) <= set(said["instants"])
    assert said["wanted"]["rows"] == said["before"]["rows"]
    assert (said["before"]["files"], said["wanted"]["files"]) == (6, 3)  # two licences share a year


@pytest.mark.attack("a file of the lake exchanged before a merge", tier="embedded")
def test_a_damaged_file_is_not_merged_into_a_sound_one(ws: SimpleNamespace) -> None:
    path = sorted(tables.planned(ws.lake.table(parse_table(TABLE))))[0]
    place = ws.lake.storage.local(path)
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.chmod(0o644)
    place.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"SHA-256 must be .*; not merged"):
        ws.upkeep.compact(TABLE, context=ME)
    assert len(tables.planned(ws.lake.table(parse_table(TABLE)))) == 4


def test_who_may_only_read_may_not_tend(ws: SimpleNamespace) -> None:
    reader = Context(Principal("reader", ("quant",)))
    for task in (ws.upkeep.compact, ws.upkeep.expire, ws.upkeep.orphans, ws.upkeep.rewrite, ws.upkeep.layout):
        with pytest.raises(AccessDenied):
            task(TABLE, context=reader)
    assert [e.body["action"] for e in ws.door.ledger.entries("denied")] == ["upkeep"] * 5


def test_a_reader_who_planned_before_reads_on_after(ws: SimpleNamespace) -> None:
    before, lazy = seen(ws), ws.lake.scan(TABLE, context=ME)
    ws.upkeep.compact(TABLE, context=ME)
    assert lazy.collect().height == 30
    assert seen(ws) == before


def test_one_that_tends_and_one_that_delivers_take_turns(ws: SimpleNamespace, tmp_path: Path) -> None:
    other = house(tmp_path / "house")
    faults: list[BaseException] = []

    def deliver() -> None:
        try:
            for number, first in enumerate((30, 40), start=3):
                other.bring(f"delivery {number}", sessions(first, first + 10))
        except BaseException as e:
            faults.append(e)

    thread = threading.Thread(target=deliver)
    thread.start()
    for _ in range(3):
        ws.upkeep.compact(TABLE, context=ME)
        ws.upkeep.expire(TABLE, keep=1, context=ME)
    thread.join()
    assert faults == []
    assert ws.lake.scan(TABLE, context=ME).collect().height == 50
    assert [f.words for f in ws.lake.verify() if not f.ok] == []


def test_the_lists_of_a_table_stay_in_order_however_it_was_delivered(ws: SimpleNamespace) -> None:
    table = ws.lake.table(parse_table(TABLE))
    before = tables.planned(table)
    assert rewrite_manifests(table) == (3, 1)
    assert tables.planned(table) == before
    [(first, last, files, _)] = ranges(table.current_snapshot().manifests(table.io))
    assert (first + 1970, last + 1970, files) == (2003, 2004, 4)
    assert files < MOST
