"""The ledger under several writers, under kills, and under a hand in the file."""

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from researchkit.context import Context, Principal
from researchkit.errors import IntegrityError, SecretUnavailable, WorkspaceError
from researchkit.security.chain import GENESIS, canonical, link
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger

WHO = Context(Principal("quant7", ("quant",)), run="7f3a")
EIGHT = """
import os, sys
from researchkit.context import Context, Principal
from researchkit.security.ledger import Ledger
children = []
for writer in "abcdefgh":
    if not (pid := os.fork()):
        ledger = Ledger(f"sqlite:///{sys.argv[1]}")
        for i in range(25):
            ledger.append("read", {"writer": writer, "i": i}, Context(Principal("quant7")))
        os._exit(0)
    children.append(pid)
sys.exit(max(os.waitpid(pid, 0)[1] for pid in children))
"""
APPEND = """
import sys
from researchkit.context import Context, Principal
from researchkit.security.ledger import Ledger
ledger = Ledger(f"sqlite:///{sys.argv[1]}")
for i in range(int(sys.argv[3])):
    ledger.append("read", {"writer": sys.argv[2], "i": i}, Context(Principal("quant7")))
"""


def url(path: Path) -> str:
    """The SQLAlchemy URL of a file."""
    return f"sqlite:///{path}"


@pytest.fixture
def keys(tmp_path: Path) -> Keyring:
    """A fresh keyring."""
    return Keyring(tmp_path / "keys")


@pytest.fixture
def path(tmp_path: Path, keys: Keyring) -> Path:
    """A ledger of twenty entries, the tenth signed."""
    ticks = itertools.count(1)
    ledger = Ledger(url(tmp_path / "ledger.db"), keys.signer(), clock=lambda: next(ticks))
    for i in range(1, 21):
        ledger.append(
            "read", {"table": "DEMO/ohlcv-1d", "marker": f"marker-{i:02d}"}, WHO, subject=f"run:{i % 3}"
        )
        if i == 10:
            (tmp_path / "kept").write_text(ledger.checkpoint())
    return tmp_path / "ledger.db"


def tamper(path: Path, *statements: str) -> None:
    """Drop every trigger, run the statements, put the triggers back."""
    with sqlite3.connect(path) as db:
        guards = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)
        for _, sql in guards:
            db.execute(sql)
    db.close()


def test_eight_processes_append_to_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    subprocess.run([sys.executable, "-c", EIGHT, str(path)], check=True)
    ledger = Ledger(url(path))
    assert ledger.verify().entries == 200
    for writer in "abcdefgh":
        assert [e.body["i"] for e in ledger.entries(writer=writer)] == list(range(25))


def test_lines_added_together_stand_together_or_not_at_all(path: Path) -> None:
    ledger = Ledger(url(path))
    entries = ledger.append_many([("read", {"n": n}, f"run:{n}") for n in range(5)], WHO)
    assert [e.seq for e in entries] == [21, 22, 23, 24, 25]
    assert [ledger.entry(e.seq) for e in entries] == entries
    with pytest.raises(ValueError, match="plain JSON"):
        ledger.append_many([("read", {"n": 1}, None), ("read", {"n": float("nan")}, None)], WHO)
    with pytest.raises(ValueError, match="the subject of a ledger entry is a name"):
        ledger.append("read", {"subject": ["run:1"]}, WHO)
    assert ledger.verify().entries == 25


@pytest.mark.parametrize(("instant", "entries"), [("before", 2), ("after", 3)])
def test_a_killed_writer_leaves_a_whole_chain(tmp_path: Path, instant: str, entries: int) -> None:
    kill = {"RESEARCHKIT_KILL_COUNT": str(tmp_path / "count"), "RESEARCHKIT_KILL_AT": f"entry:{instant}:3"}
    args = [sys.executable, "-c", APPEND, str(tmp_path / "ledger.db"), "a", "5"]
    assert subprocess.run(args, env=os.environ | kill).returncode == -signal.SIGKILL
    ledger = Ledger(url(tmp_path / "ledger.db"))
    assert ledger.verify().entries == entries
    assert ledger.append("read", {}, WHO).seq == entries + 1


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (
            ["UPDATE entries SET body = replace(body, 'marker-17', 'marker-71') WHERE seq = 17"],
            "entry 17: hash differs",
        ),
        (["UPDATE entries SET ts = ts + 1 WHERE seq = 17"], "entry 17: hash differs"),
        (
            ["UPDATE entries SET context = replace(context, 'quant7', 'quant8') WHERE seq = 17"],
            "entry 17: hash differs",
        ),
        (["UPDATE entries SET subject = NULL WHERE seq = 17"], "entry 17: hash differs"),
        (
            ["UPDATE entries SET hash = replace(hash, substr(hash, 1, 1), 'x') WHERE seq = 17"],
            "entry 17: hash differs",
        ),
        (["UPDATE entries SET body = CAST(x'ff00' AS TEXT) WHERE seq = 17"], "entry 17 is not readable"),
        (["DELETE FROM entries WHERE seq = 17"], "entry 17 is missing"),
        (["DELETE FROM entries WHERE seq = 1"], "entry 1 is missing"),
        (["DELETE FROM entries WHERE seq > 8"], "ends at entry 8, and entry 10 was signed"),
        (["DELETE FROM entries"], "ends at entry 0, and entry 10 was signed"),
        (["UPDATE entries SET seq = 100 WHERE seq = 17"], "entry 17 is missing"),
        (
            ["UPDATE entries SET seq = 99 WHERE seq = 17", "UPDATE entries SET seq = 17 WHERE seq = 18"],
            "entry 17: hash differs",
        ),
    ],
)
def test_what_was_touched_is_named(path: Path, statements: list[str], words: str) -> None:
    assert Ledger(url(path)).verify().entries == 20
    tamper(path, *statements)
    with pytest.raises(IntegrityError, match=words):
        Ledger(url(path)).verify()


def _rewrite(path: Path, start: int, *, insert: bool = False) -> None:
    """Change entry `start`, or put one before it, and recompute every hash after it."""
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT * FROM entries ORDER BY seq").fetchall()
    db.close()
    kept, rest = rows[: start - 1], [list(row) for row in rows[start - 1 :]]
    if insert:
        rest.insert(0, list(rest[0]))
    rest[0][4] = canonical({**json.loads(rest[0][4]), "marker": "forged"})
    prev = kept[-1][7] if kept else GENESIS
    for seq, row in enumerate(rest, start=start):
        row[0], row[6] = seq, prev
        row[7] = prev = link(*row[:7])
    tamper(path, f"DELETE FROM entries WHERE seq >= {start}")
    with sqlite3.connect(path) as db:
        db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rest)
    db.close()


@pytest.mark.parametrize("insert", [False, True])
def test_a_consistent_forgery_before_a_checkpoint_is_seen(path: Path, insert: bool) -> None:
    _rewrite(path, 5, insert=insert)
    with pytest.raises(
        IntegrityError, match="ledger entries 1 to 10: not what was signed, history was rewritten"
    ):
        Ledger(url(path)).verify()


def test_only_the_checkpoint_kept_elsewhere_sees_the_whole_rewritten(path: Path, tmp_path: Path) -> None:
    _rewrite(path, 5)
    tamper(path, "DELETE FROM checkpoints")
    ledger = Ledger(url(path))
    assert ledger.verify().entries == 20  # the limit of the embedded tier
    for full in (True, False):
        with pytest.raises(IntegrityError, match="ledger entries 1 to 10: not what was signed"):
            ledger.verify(full=full, checkpoint=(tmp_path / "kept").read_text())


def test_an_inserted_line_that_borrows_a_link(path: Path) -> None:
    with sqlite3.connect(path) as db:
        row = list(db.execute("SELECT * FROM entries WHERE seq = 17").fetchone())
    db.close()
    row[6] = "f" * 64
    row[7] = link(*row[:7])
    tamper(path, f"UPDATE entries SET prev = '{row[6]}', hash = '{row[7]}' WHERE seq = 17")
    with pytest.raises(IntegrityError, match="entry 17 does not follow entry 16"):
        Ledger(url(path)).verify()


def test_a_flipped_byte_in_the_file_is_named(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    content = bytearray(path.read_bytes())
    content[content.index(b"marker-17") + 3] ^= 0x01
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="entry 17: hash differs"):
        Ledger(url(path)).verify()
    with pytest.raises(IntegrityError, match="entry 17"):  # and no question returns it
        Ledger(url(path)).entries(subject="run:2")


@pytest.mark.parametrize("place", ["table", "index"])
def test_a_damaged_page_is_no_traceback(path: Path, place: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        name = "entries" if place == "table" else "entries_subject"
        root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0]
        size = db.execute("PRAGMA page_size").fetchone()[0]
    db.close()
    content = bytearray(path.read_bytes())
    content[(root - 1) * size : (root - 1) * size + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises((IntegrityError, WorkspaceError), match=r"damaged|cannot be"):
        Ledger(url(path)).verify()


def test_rows_cannot_be_touched_through_the_front_door(path: Path) -> None:
    with sqlite3.connect(path) as db:
        for statement in ("UPDATE entries SET ts = 0", "DELETE FROM entries", "DELETE FROM checkpoints"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                db.execute(statement)
    db.close()


def test_quick_verification_begins_at_the_last_checkpoint(path: Path) -> None:
    tamper(path, "UPDATE entries SET body = '{}' WHERE seq = 3")
    report = Ledger(url(path)).verify(full=False)
    assert (report.checked_from, report.entries, report.checkpoints) == (10, 20, 1)
    tamper(path, "UPDATE entries SET body = '{}' WHERE seq = 15")
    with pytest.raises(IntegrityError, match="entry 15"):
        Ledger(url(path)).verify(full=False)


def test_nothing_is_tied_to_a_broken_head(path: Path) -> None:
    tamper(path, "UPDATE entries SET body = '{}' WHERE seq = 20")
    ledger = Ledger(url(path))
    for step in (lambda: ledger.append("read", {}, WHO), ledger.head, ledger.tail):
        with pytest.raises(IntegrityError, match="entry 20: hash differs"):
            step()


def test_a_checkpoint_of_another_key_is_refused(path: Path, tmp_path: Path, keys: Keyring) -> None:
    with pytest.raises(
        IntegrityError, match=r"checkpoint of entry 10: of researchkit/ledger/.*, not of this ledger"
    ):
        Ledger(url(path), Keyring(tmp_path / "other").signer).verify()
    kept = (tmp_path / "kept").read_text()
    ledger = Ledger(url(path), keys.signer)
    assert ledger.verify(checkpoint=kept).checkpoints == 1
    for text in (
        "",
        "{}",
        "[]",
        kept.replace("\n10\n", "\n11\n"),
        kept.replace("\n10\n", "\n010\n"),
        kept[:-3],
    ):
        with pytest.raises(IntegrityError, match=r"note|checkpoint"):
            ledger.verify(checkpoint=text)


@pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": {1, 2}}, {"x": Path("y")}, {"x": "\ud800"}])
def test_only_plain_json(path: Path, body: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="plain JSON"):
        Ledger(url(path)).append("read", body, WHO)
    assert Ledger(url(path)).verify().entries == 20


def test_an_empty_ledger(tmp_path: Path, keys: Keyring) -> None:
    ledger = Ledger(url(tmp_path / "ledger.db"), keys.signer)
    assert ledger.head() is None
    assert ledger.verify().entries == 0
    assert ledger.tail().height == 0
    with pytest.raises(ValueError, match="nothing to sign"):
        ledger.checkpoint()
    with pytest.raises(SecretUnavailable, match="without a signing key"):
        Ledger(url(tmp_path / "ledger.db")).checkpoint()


def test_a_ledger_that_cannot_be_written_stops_the_work(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(url(path))
    monkeypatch.setattr("researchkit.security.database.PRAGMAS", ("busy_timeout = 50",))
    ledger = Ledger(url(path))
    with sqlite3.connect(path) as held:
        held.execute("BEGIN IMMEDIATE")
        with pytest.raises(WorkspaceError, match="database is locked; nothing was done"):
            ledger.append("read", {}, WHO)
        held.rollback()
    held.close()
    assert ledger.append("read", {}, WHO).seq == 21


def test_questions_use_the_indexes(path: Path) -> None:
    questions: list[Callable[[Ledger], object]] = [
        lambda ledger: ledger.entries("read", limit=5),
        lambda ledger: ledger.entries(subject="run:1"),
        lambda ledger: ledger.entries(since=5),
        lambda ledger: ledger.entries(who="quant7", limit=5),
        lambda ledger: ledger.touched("run:1", before=9),
    ]
    for ask in questions:
        asked: list[tuple[str, object]] = []
        ledger = Ledger(url(path))
        sa.event.listen(
            ledger._shelf.db, "before_cursor_execute", lambda *a, asked=asked: asked.append((a[2], a[3]))
        )
        ask(ledger)
        statement, given = next(pair for pair in asked if "FROM entries" in pair[0])
        with sqlite3.connect(path) as db:
            plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", given))
        db.close()
        assert "INDEX entries_" in plan, plan
