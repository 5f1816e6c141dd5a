"""Checkpoints: old ones, killed ones, witnessed ones, and what each of them shows."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from researchkit.context import Context, Principal
from researchkit.errors import AccessDenied, IntegrityError, WorkspaceError
from researchkit.security import migrations
from researchkit.security.chain import GENESIS, Checkpoint, canonical, link
from researchkit.security.cosigner import Answer, Witness, read_request
from researchkit.security.database import migrate
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.note import origin_of
from researchkit.security.signing import signer_of
from researchkit.security.witness import WitnessClient
from researchkit.settings import Address

WHO = Context(Principal("quant7", ("quant",)))
SIGNER = signer_of(bytes(32))
KILLED = """
import sys
from researchkit.context import Context, Principal
from researchkit.security.ledger import Ledger
from researchkit.security.signing import signer_of
ledger = Ledger(f"sqlite:///{sys.argv[1]}", signer_of(bytes(32)))
for i in range(300):
    if not ledger.head() or ledger.head().seq < 300:
        ledger.append_many([("read", {"i": i}, None) for i in range(300)], Context(Principal("quant7")))
ledger.checkpoint()
"""


def url(path: Path) -> str:
    """The SQLAlchemy URL of a file."""
    return f"sqlite:///{path}"


def filled(path: Path, n: int, *, witness: WitnessClient | None = None) -> Ledger:
    """A ledger with some entries."""
    ticks = itertools.count(1)
    ledger = Ledger(url(path), SIGNER, witness=witness, clock=lambda: next(ticks))
    ledger.append_many([("read", {"i": i}, f"run:{i % 3}") for i in range(n)], WHO)
    return ledger


# --- a ledger of the first revision ---


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Five entries, the third signed, as the first program wrote them."""
    (tmp_path / "revisions").mkdir()
    shutil.copy(Path(next(iter(migrations.__path__))) / "r0001_ledger.py", tmp_path / "revisions")
    path = tmp_path / "ledger.db"
    migrate(url(path), tmp_path / "revisions", name="ledger").dispose()
    with sqlite3.connect(path) as db:
        prev = GENESIS
        for n in range(1, 6):
            line = (n, n, "read", "run:1", '{"subject":"run:1"}', canonical(WHO.line()), prev)
            prev = link(*line)
            db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*line, prev))
            if n == 3:
                bare = Checkpoint(n, prev, n, SIGNER.public_hex)
                mark = replace(bare, signature=SIGNER.sign(bare.message()).hex())
                db.execute("INSERT INTO checkpoints VALUES (?, ?)", (n, mark.text))
                (tmp_path / "kept").write_text(mark.text)
    db.close()
    return path


def test_an_old_ledger_opens_and_keeps_its_promises(old: Path, tmp_path: Path) -> None:
    kept = (tmp_path / "kept").read_text()
    ledger = Ledger(url(old), SIGNER)
    report = ledger.verify(checkpoint=kept)
    assert (report.entries, report.checkpoints) == (5, 1)
    assert ledger.verify(full=False).checked_from == 3
    assert len(ledger.entries(who="quant7")) == 5
    note = ledger.checkpoint()
    assert (note.size, ledger.notes()) == (5, [note])
    assert ledger.verify(checkpoint=kept).checkpoints == 2
    assert (tmp_path / "ledger.db.backup-ledger-0001").exists()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM entries WHERE seq > 2", "ends at entry 2, and entry 3 was signed"),
        ("UPDATE heads SET text = replace(text, '\"seq\":3', '\"seq\":4')", "its signature does not fit"),
    ],
)
def test_an_old_checkpoint_still_shows_what_it_showed(old: Path, statement: str, words: str) -> None:
    Ledger(url(old))
    with sqlite3.connect(old) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute(statement)
    db.close()
    with pytest.raises(IntegrityError, match=words):
        Ledger(url(old), SIGNER).verify()


def test_an_old_checkpoint_of_a_stranger_is_refused(old: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="not by this ledger's key"):
        Ledger(url(old), Keyring(tmp_path / "keys").signer).verify()


# --- killed, full, wrong ---


@pytest.mark.parametrize(("instant", "notes"), [("before", 0), ("after", 1)])
def test_a_killed_checkpoint_is_there_or_not(tmp_path: Path, instant: str, notes: int) -> None:
    kill = {
        "RESEARCHKIT_KILL_COUNT": str(tmp_path / "count"),
        "RESEARCHKIT_KILL_AT": f"checkpoint:{instant}:1",
    }
    args = [sys.executable, "-c", KILLED, str(tmp_path / "ledger.db")]
    assert subprocess.run(args, env=os.environ | kill).returncode == -signal.SIGKILL
    ledger = Ledger(url(tmp_path / "ledger.db"), SIGNER)
    assert (ledger.verify().entries, len(ledger.notes())) == (300, notes)
    assert ledger.checkpoint().size == 300
    assert ledger.verify().checkpoints == 1


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes."""
    if os.geteuid() != 0:
        pytest.skip("a small file system can be mounted by root only")
    image, place = tmp_path / "image", tmp_path / "small"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    place.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def again(step: Callable[[], object]) -> None:
    """Do something until it raises."""
    while True:
        step()


def test_a_full_disk_stops_append_and_checkpoint_and_harms_nothing(small: Path) -> None:
    ledger = filled(small / "ledger.db", 300)
    with (small / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        again(lambda: filler.write(bytes(4096)))
    lines = [("read", {"words": "x" * 500}, None)] * 20  # what room the log still has is soon used up
    for step in (lambda: ledger.append_many(lines, WHO), lambda: ledger.append("read", {}, WHO)):
        with pytest.raises(WorkspaceError, match="nothing was done"):
            again(step)
    with pytest.raises(WorkspaceError, match="nothing was done"):
        ledger.checkpoint()
    assert ledger.notes() == []
    entries = ledger.verify().entries
    (small / "filler").unlink()
    assert ledger.checkpoint().size == entries
    assert ledger.append("read", {}, WHO).seq == entries + 1
    assert ledger.verify().checkpoints == 1
    ledger._shelf.db.dispose()  # type: ignore[attr-defined]


def test_nodes_that_were_touched_lead_to_no_false_signature(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = filled(path, 600)
    kept = ledger.checkpoint()
    tampered(path, lambda db: db.execute("UPDATE nodes SET hash = zeroblob(32) WHERE level = 9"))
    assert ledger.verify(full=False, checkpoint=kept).entries == 600  # the entries have the last word
    planted = "INSERT INTO nodes VALUES (8, 2, zeroblob(32)), (10, 0, zeroblob(32))"
    tampered(path, lambda db: db.execute(planted))
    ledger.append_many([("read", {"i": i}, None) for i in range(600)], WHO)
    ledger.checkpoint()
    assert ledger.verify(full=False, checkpoint=kept).checkpoints == 2
    with pytest.raises(IntegrityError, match="the kept node over entries 1 to 512 is not what"):
        ledger.verify(checkpoint=kept)


def test_nothing_is_signed_over_a_rewritten_history(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = filled(path, 10)
    [note] = [ledger.checkpoint()]
    tampered(path, lambda db: (rewrite(db), db.execute("INSERT INTO checkpoints VALUES (10, ?)", (note,))))
    ledger.append("read", {}, WHO)
    with pytest.raises(IntegrityError, match="history was rewritten; nothing is signed"):
        ledger.checkpoint()


def test_after_a_rotation_both_keys_are_believed(tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    ledger = Ledger(url(tmp_path / "ledger.db"), keys.signer)
    ledger.append("read", {}, WHO)
    first = ledger.checkpoint()
    keys.rotate_signer()
    ledger.append("read", {}, WHO)
    second = ledger.checkpoint()
    assert first.splitlines()[0] == second.splitlines()[0]  # the ledger's name stays
    assert keys.signer().public_hex != keys.signer().trusted[0]
    assert ledger.verify(checkpoint=first).checkpoints == 2


# --- a witness ---


class Office:
    """A witness in this process, asked through its client, which can be away."""

    def __init__(self, folder: Path) -> None:
        """Trust this module's signer."""
        own = signer_of(bytes([1]) * 32)
        trust = {origin_of(SIGNER.public_hex): [SIGNER.public_hex]}
        self.witness = Witness(folder / "witness.db", "office", own, lambda: trust, clock=lambda: 1.4e9)
        self.away, self.key, self.trust = False, own.public_hex, trust

    def client(self) -> WitnessClient:
        """A client without memory."""
        return WitnessClient(
            Address("https", "witness.example", 8443), None, self.key, "office", ask=self.ask
        )

    def ask(self, method: str, path: str, body: bytes | None) -> Answer:
        """Answer as the service does."""
        if self.away:
            raise WorkspaceError("witness office: nobody answers")
        if method == "POST" and body is not None:
            return self.witness.add(*read_request(body))
        note = self.witness.latest(origin_of(SIGNER.public_hex))
        return Answer(404, "") if note is None else Answer(200, note)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """A witness with an empty memory."""
    return Office(tmp_path)


def tampered(path: Path, change: Callable[[sqlite3.Connection], object]) -> None:
    """Change an SQLite ledger behind its guards, and put them back."""
    with sqlite3.connect(path) as db:
        guards = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            db.execute(f"DROP TRIGGER {name}")
        change(db)
        for _, sql in guards:
            db.execute(sql)
    db.close()


def rewrite(db: sqlite3.Connection) -> None:
    """Forge entry 5, recompute what follows, forget everything that was signed."""
    rows = db.execute("SELECT * FROM entries ORDER BY seq").fetchall()
    db.execute("DELETE FROM entries WHERE seq >= 5")
    prev = rows[3][7]
    for row in rows[4:]:
        body = canonical({**json.loads(row[4]), "i": "forged"}) if row[0] == 5 else row[4]
        line = (*row[:4], body, row[5], prev)
        prev = link(*line)
        db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*line, prev))
    forget(db)


def forget(db: sqlite3.Connection) -> None:
    """Remove all that was signed."""
    for table in ("checkpoints", "cosignatures", "nodes"):
        db.execute(f"DELETE FROM {table}")


def cut(db: sqlite3.Connection) -> None:
    """Remove the end, and all that was signed."""
    db.execute("DELETE FROM entries WHERE seq > 8")
    forget(db)


def test_the_witness_follows(tmp_path: Path, office: Office) -> None:
    ledger = filled(tmp_path / "ledger.db", 10, witness=office.client())
    assert "witness office has not seen this ledger yet" in str(ledger.verify())
    done = ledger.checkpoint()
    assert (done.size, done.cosigned, done.words) == (10, True, "countersigned by office")
    assert ledger.verify().witnessed == 10
    ledger.append_many([("read", {"i": i}, None) for i in range(700)], WHO)
    office.away = True
    later = ledger.checkpoint()
    assert not later.cosigned
    assert "nobody answers; the next checkpoint hands it over again" in later.words
    report = ledger.verify()
    assert (report.witnessed, report.checkpoints) == (10, 2)
    assert "the witness was not heard: witness office: nobody answers" in str(report)
    office.away = False
    ledger.append("read", {}, WHO)
    assert ledger.checkpoint().cosigned
    assert [text.count("— office") for text in ledger.notes()] == [1, 0, 1]
    assert ledger.verify().witnessed == 711
    fresh = Ledger(url(tmp_path / "ledger.db"), SIGNER, witness=office.client())  # knows nothing of before
    fresh.append("read", {}, WHO)
    assert fresh.checkpoint().cosigned
    assert fresh.verify(full=False).witnessed == 712


@pytest.mark.parametrize(
    ("change", "seen", "refused"),
    [
        (rewrite, "ledger entries 1 to 10: not what was signed", "history was rewritten|two histories"),
        (
            cut,
            "ends at entry 8, and entry 10 was signed: the end was cut off",
            "end was cut off|another root",
        ),
    ],
)
def test_an_owner_with_the_key_is_caught_by_the_witness_alone(
    tmp_path: Path, office: Office, change: Callable[[sqlite3.Connection], None], seen: str, refused: str
) -> None:
    path = tmp_path / "ledger.db"
    kept = filled(path, 10, witness=office.client()).checkpoint()
    tampered(path, change)
    alone, seen_by = Ledger(url(path), SIGNER), Ledger(url(path), SIGNER, witness=office.client())
    assert alone.verify().checkpoints == 0  # from inside all is well
    for full in (True, False):
        with pytest.raises(IntegrityError, match=seen):
            seen_by.verify(full=full)
        with pytest.raises(IntegrityError, match=seen):
            alone.verify(full=full, checkpoint=kept)
    assert seen_by.verify(witness=False).ok
    for _ in range(2):  # and it stays refused, whatever is signed anew
        with pytest.raises(IntegrityError, match=refused):
            seen_by.checkpoint()
        seen_by.append("read", {}, WHO)
    assert all("— office" not in text for text in seen_by.notes())
    with pytest.raises(IntegrityError):
        seen_by.verify()


def test_a_ledger_begun_again_under_the_same_key_is_refused(tmp_path: Path, office: Office) -> None:
    filled(tmp_path / "first.db", 10, witness=office.client()).checkpoint()
    again = filled(tmp_path / "second.db", 12, witness=office.client())
    again.append("read", {"i": "another history"}, WHO)
    tampered(tmp_path / "second.db", rewrite)
    with pytest.raises(IntegrityError, match="history was rewritten"):
        again.checkpoint()


def test_a_witness_that_was_told_nothing_says_so(tmp_path: Path, office: Office) -> None:
    office.trust.clear()
    ledger = filled(tmp_path / "ledger.db", 3, witness=office.client())
    with pytest.raises(AccessDenied, match="it does not know this ledger or its key"):
        ledger.checkpoint()
    assert [text.count("\n3\n") for text in ledger.notes()] == [1]  # the note is kept all the same


def test_a_false_countersignature_is_seen(tmp_path: Path, office: Office) -> None:
    path = tmp_path / "ledger.db"
    ledger = filled(path, 3, witness=office.client())
    ledger.checkpoint()
    wrong = "UPDATE cosignatures SET line = replace(line, substr(line, 40, 4), 'AAAA')"
    tampered(path, lambda db: db.execute(wrong))
    with pytest.raises(
        IntegrityError, match=r"cosignature of witness office does not fit|signature line is damaged"
    ):
        ledger.verify()
