"""Rows that somebody put into the ledger's tables without the ledger, and what comes of them: nothing."""

from __future__ import annotations

import base64
import itertools
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from researchkit.context import Context, Principal
from researchkit.errors import IntegrityError
from researchkit.security import proofs
from researchkit.security.chain import canonical, entry_of, link
from researchkit.security.cosigner import Witness, evidence, request_of
from researchkit.security.ledger import Ledger
from researchkit.security.merkle import Tree, check_consistency, root
from researchkit.security.note import Checkpoint, origin_of, sign_note
from researchkit.security.shelves import SqliteShelf, question
from researchkit.security.signing import signer_of
from researchkit.security.verifier import main
from researchkit.security.witness_host import answer_request

WHO = Context(Principal("quant7", ("quant",)))
SIGNER = signer_of(bytes(32))
ORIGIN = origin_of(SIGNER.public_hex)
OFFICE = signer_of(bytes([1]) * 32)
TOLD = canonical(WHO.line())


class Following:
    """A witness that signs what is proved to it, and nothing else."""

    name, key = "office", OFFICE.public_hex

    def __init__(self, folder: Path) -> None:
        """Begin without a memory."""
        self.witness = Witness(
            folder / "witness.db", self.name, OFFICE, lambda: {ORIGIN: [SIGNER.public_hex]}
        )
        self.size = 0

    def submit(self, note: str, prove: Callable[[int, int], Any]) -> str:
        """Pass on what is handed in."""
        size = int(note.split("\n")[1])
        answer = self.witness.add(self.size, prove(self.size, size), note)
        assert answer.status == 200, answer.text
        self.size = size
        return answer.text

    def latest(self, origin: str) -> str | None:
        """What was signed last."""
        return self.witness.latest(origin)


def books(path: Path, n: int, **more: Any) -> Ledger:
    """A ledger with some entries."""
    ticks = itertools.count(1)
    ledger = Ledger(f"sqlite:///{path}", SIGNER, clock=lambda: next(ticks), **more)
    ledger.append_many([("read", {"i": i}, f"run:{i % 3}") for i in range(n)], WHO)
    return ledger


def run(path: Path, *statements: tuple[Any, ...], guarded: bool = True) -> None:
    """Do something to the file: as whoever may write it, or behind the guards' backs."""
    with closing(sqlite3.connect(path)) as db, db:
        find = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        guards = [] if guarded else db.execute(find).fetchall()
        for name, _ in guards:
            db.execute(f"DROP TRIGGER {name}")
        for statement, *values in statements:
            db.execute(statement, values)
        for _, text in guards:
            db.execute(text)


def unsigned(size: int, top: bytes) -> str:
    """What looks like a note, without anybody's signature."""
    worthless = base64.b64encode(b"x" * 68).decode()
    return f"{ORIGIN}\n{size}\n{base64.b64encode(top).decode()}\n\n— {ORIGIN} {worthless}\n"


# --- a tree that never was ---


def test_an_unsigned_note_and_planted_nodes_get_nothing_signed(tmp_path: Path) -> None:
    path, office = tmp_path / "ledger.db", Following(tmp_path)
    ledger = books(path, 512, witness=office)
    ledger.checkpoint()
    ledger.append_many([("read", {"i": i}, None) for i in range(512)], WHO)
    fake = [*ledger.leaves(0, 1023), b"F" * 32]
    planted = [(8, 2), (8, 3), (9, 1), (10, 0)]
    rows = [
        (
            "INSERT INTO nodes VALUES (?, ?, ?)",
            level,
            place,
            root(fake[place << level : (place + 1) << level]),
        )
        for level, place in planted
    ]
    run(path, *rows, ("INSERT INTO checkpoints VALUES (1024, ?)", unsigned(1024, root(fake))))
    for _ in range(2):  # at that very size, and later
        with pytest.raises(IntegrityError, match=r"kept checkpoint of entry 1024 is none.*nothing is signed"):
            ledger.checkpoint()
        ledger.append("read", {"i": "honest"}, WHO)
    assert office.size == 512
    run(path, ("DELETE FROM checkpoints WHERE seq = 1024",), guarded=False)
    note = ledger.checkpoint()  # above what was signed, no node is believed
    assert base64.b64decode(note.split("\n")[2]) == root(ledger.leaves(0, 1026))
    with pytest.raises(IntegrityError, match=r"the kept node over entries .* was planted or changed"):
        ledger.verify()


def test_what_stands_for_the_head_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = books(path, 5)
    run(path, ("INSERT INTO checkpoints VALUES (5, ?)", unsigned(5, bytes(32))))
    with pytest.raises(IntegrityError, match="the kept checkpoint of entry 5 is none"):
        ledger.checkpoint()
    false = Checkpoint(ORIGIN, 5, bytes(32))  # signed by the right key, over other entries
    run(path, ("DELETE FROM checkpoints",), guarded=False)
    run(path, ("INSERT INTO checkpoints VALUES (5, ?)", sign_note(false.text, ORIGIN, SIGNER)))
    with pytest.raises(IntegrityError, match="not what was signed, history was rewritten; nothing is signed"):
        ledger.checkpoint()
    run(path, ("DELETE FROM checkpoints",), guarded=False)
    note = ledger.checkpoint()
    ledger.append("read", {}, WHO)
    run(path, ("INSERT INTO checkpoints VALUES (6, ?)", note), guarded=False)
    for step in (ledger.checkpoint, ledger.verify):
        with pytest.raises(IntegrityError, match="the kept checkpoint of entry 6 is one of"):
            step()


def test_one_false_node_spoils_no_proof_and_accuses_nobody(tmp_path: Path) -> None:
    path, office = tmp_path / "ledger.db", Following(tmp_path)
    ledger = books(path, 700, witness=office)
    run(
        path,
        ("INSERT INTO nodes VALUES (8, 1, ?)", b"x" * 32),
        ("INSERT INTO nodes VALUES (8, 0, ?)", b"y" * 32),
    )
    assert ledger.checkpoint().cosigned
    ledger.append_many([("read", {"i": i}, None) for i in range(600)], WHO)
    assert ledger.checkpoint().cosigned
    (tmp_path / "proof.json").write_text(json.dumps(proofs.export(ledger, 1)))
    with (tmp_path / "said").open("w") as said:
        assert main([str(tmp_path / "proof.json"), "--key", SIGNER.public_hex], said) == 0
    leaves = ledger.leaves(0, 1300)
    path_of = ledger.tree().consistency(300, 1300)
    assert check_consistency(300, 1300, path_of, root(leaves[:300]), root(leaves))
    assert ledger.verify(full=False).entries == 1300
    with pytest.raises(IntegrityError, match="the kept node over entries 1 to 256 is not what"):
        ledger.verify()


# --- rows that would stand in the way for good ---


@pytest.mark.parametrize(
    ("subject", "body", "context"),
    [
        (None, "[]", TOLD),
        (None, "nope", TOLD),
        (5, '{"subject":5}', TOLD),
        ("run:1", "{}", TOLD),
        (None, "{}", "{}"),
        (None, "{}", '{"principal":{"name":5}}'),
        (None, '{"a":' + "[" * 5000 + "]" * 5000 + "}", TOLD),
        (None, json.dumps({"a": "x" * (1 << 20)}), TOLD),
        (None, b"{}", TOLD),
    ],
)
def test_no_insert_stops_the_ledger(tmp_path: Path, subject: object, body: Any, context: str) -> None:
    path = tmp_path / "ledger.db"
    ledger = books(path, 1)
    head = ledger.entry(1).hash
    text = body.decode() if isinstance(body, bytes) else body
    told = link(2, 5, "read", None if subject is None else str(subject), text, context, head)
    with pytest.raises(sqlite3.IntegrityError, match=r"a ledger entry|of a ledger entry"):
        run(
            path,
            ("INSERT INTO entries VALUES (2, 5, 'read', ?, ?, ?, ?, ?)", subject, body, context, head, told),
        )
    assert ledger.append("read", {}, WHO).seq == 2
    assert ledger.verify().entries == 2


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("checkpoints", (9_000_000_000, unsigned(9_000_000_000, bytes(32)))),
        ("checkpoints", (2, "any text at all")),
        ("cosignatures", (3, "junk")),
        ("cosignatures", (2, "— office AAAA\n")),
        ("nodes", (8, 0, bytes(32))),
        ("nodes", (1 << 40, 0, bytes(32))),
        ("heads", (3, "{}")),
    ],
)
def test_nothing_is_said_of_entries_that_are_not_there(
    tmp_path: Path, table: str, row: tuple[Any, ...]
) -> None:
    path = tmp_path / "ledger.db"
    ledger = books(path, 3)
    note = ledger.checkpoint()
    with pytest.raises(sqlite3.IntegrityError):
        run(path, (f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row))
    run(path, ("INSERT OR REPLACE INTO checkpoints VALUES (3, ?)", unsigned(3, bytes(32))))
    assert ledger.notes() == [note]
    assert ledger.verify().checkpoints == 1


@pytest.mark.parametrize(
    "change",
    [
        "subject = CAST(subject AS BLOB)",
        "kind = CAST(kind AS BLOB)",
        "context = CAST(context AS BLOB)",
        "ts = 'soon'",
        "ts = 1.5",
    ],
)
def test_a_row_that_no_index_finds_is_a_damaged_row(tmp_path: Path, change: str) -> None:
    path = tmp_path / "ledger.db"
    ledger = books(path, 3)
    run(path, (f"UPDATE entries SET {change} WHERE seq = 2",), guarded=False)
    with pytest.raises(IntegrityError, match="ledger entry 2 is not readable: the row was damaged"):
        ledger.verify()


@pytest.mark.parametrize(
    "body", ['{ "a": 1}', '{"a":1,"a":2}', '{"b":1,"a":2}', '{"a":"\\u0041"}', '{"a":1E2}']
)
def test_another_spelling_is_seen_and_stops_nobody(tmp_path: Path, body: str) -> None:
    path = tmp_path / "ledger.db"
    ledger = books(path, 1)
    line = (2, 5, "read", None, body, TOLD, ledger.entry(1).hash)
    run(path, ("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *line, link(*line)))
    with pytest.raises(IntegrityError, match="entry 2: its body is not in canonical spelling"):
        ledger.verify()
    assert ledger.append("read", {}, WHO).seq == 3


def test_what_would_not_come_back_is_not_written(tmp_path: Path) -> None:
    ledger = books(tmp_path / "ledger.db", 1)
    deep: object = 0
    for _ in range(900):
        deep = [deep]
    bad: list[Any] = [{"a": {1: 0}}, {"a": deep}, {"a": 10**400}, {"a": "x" * (1 << 20)}]
    for body in bad:
        with pytest.raises(ValueError, match=r"the ledger holds plain JSON|at most 1,000,000 bytes"):
            ledger.append("read", body, WHO)
    for kind, subject in (("k" * 300, None), ("read", "s" * 2000), (5, None)):
        with pytest.raises(ValueError, match="of a ledger entry"):
            ledger.append(kind, {}, WHO, subject=subject)  # type: ignore[arg-type]
    assert ledger.verify().entries == 1


def test_a_row_of_any_kind_is_read_or_refused_in_words() -> None:
    row: list[Any] = [1, 0, b"read", None, b"{}", TOLD.encode(), b"0" * 64, b"0" * 64]
    for place, value in ((0, "x"), (1, None), (1, 0.5), (2, 5), (3, 5), (4, None), (4, b"\xff")):
        with pytest.raises(IntegrityError, match="is not readable: the row was damaged"):
            entry_of([*row[:place], value, *row[place + 1 :]])


# --- what is asked every day ---


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "read", "who": "nobody"},
        {"kind": "read", "since": 1 << 62},
        {"who": "quant7", "since": 1 << 62},
        {"since": 0},
    ],
)
def test_a_question_with_a_limit_reads_few_rows(tmp_path: Path, given: dict[str, Any]) -> None:
    ledger = books(tmp_path / "ledger.db", 10)
    ledger.append("verdict", {}, Context(Principal("nobody")))
    shelf = ledger._shelf
    assert isinstance(shelf, SqliteShelf)
    text, values = question(shelf.dialect, given, {}, 20)
    plan = shelf.read(lambda c: [r[3] for r in c.execute(sa.text(f"EXPLAIN QUERY PLAN {text}"), values)])
    assert not any("TEMP B-TREE" in step for step in plan), plan
    wanted = {"kind", "who"} <= set(given)
    assert not wanted or any("entries_kind_who" in step for step in plan), plan
    assert "since" not in given or any("(rowid>?" in step or "seq>?" in step for step in plan), plan


def test_since_is_exact_where_the_clock_went_back(tmp_path: Path) -> None:
    times = iter([10, 20, 5, 30, 7])
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", clock=lambda: next(times))
    ledger.append_many([("read", {}, None)] * 5, WHO)
    assert [e.seq for e in ledger.entries(since=8)] == [1, 2, 4]
    assert [e.seq for e in ledger.entries(since=8, kind="read", who="quant7", limit=2)] == [2, 4]
    assert [e.seq for e in ledger.entries(since=31)] == []


# --- the witness ---


def test_worthless_proofs_leave_room_for_the_note_that_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("researchkit.security.cosigner._MOST_EVIDENCE", 5)
    witness = Following(tmp_path).witness

    def note(size: int, top: bytes) -> str:
        return sign_note(Checkpoint(ORIGIN, size, top).text, ORIGIN, SIGNER)

    leaves = [bytes([i]) * 32 for i in range(20)]
    assert witness.add(0, [], note(20, Tree(lambda lo, hi: leaves[lo:hi]).root(20))).status == 200
    for i in range(9):
        assert witness.add(20, [bytes([i]) * 32], note(21 + i, bytes([i]) * 32)).status == 422
    fork = note(20, b"f" * 32)
    assert witness.add(20, [], fork).status == 409
    assert len(evidence(witness, ORIGIN)) == 6
    assert fork in evidence(witness, ORIGIN)
    huge = 9_999_999_999_999_999_999
    for old in (20, huge):
        asked = request_of(old, [bytes(32)], note(huge, bytes(32)))
        assert answer_request(witness, asked).status == 400
