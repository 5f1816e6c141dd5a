"""The ledger on a real server: its writer's rights, its owner's hand, restarts and commits that nobody answers."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from postgresql import PostgreSQL
from tls import Authority

from researchkit.context import Context, Principal
from researchkit.errors import AccessDenied, IntegrityError, SecretUnavailable, WorkspaceError
from researchkit.security import postgresql as client
from researchkit.security.chain import GENESIS, canonical, link
from researchkit.security.installation import OWNER, REVISION, TABLES, install
from researchkit.security.ledger import Entry, Ledger, open_ledger
from researchkit.security.note import origin_of
from researchkit.security.postgresql import SCHEMA, PostgresShelf
from researchkit.security.secret import Secret
from researchkit.security.shelves import question
from researchkit.security.signing import signer_of
from researchkit.settings import read

pytestmark = pytest.mark.xdist_group("postgresql")
WHO = Context(Principal("quant7", ("quant",)), run="7f3a")
WRITER = {"user": Secret("writer"), "password": Secret("writer-of-the-tests")}
SIGNER = signer_of(bytes(32))
NUMBERS = itertools.count()
EIGHT = """
import os, sys
from researchkit.context import Context, Principal
from researchkit.security.ledger import Ledger
from researchkit.security.secret import Secret
who = {"user": Secret("writer"), "password": Secret(sys.stdin.readline().strip())}
children = []
for writer in "abcdefgh":
    if not (pid := os.fork()):
        ledger = Ledger(sys.argv[1], credentials=lambda: who)
        with open(f"{sys.argv[2]}/{writer}", "w") as told:
            for i in range(40):
                entry = ledger.append("read", {"writer": writer, "i": i}, Context(Principal("quant7")))
                print(entry.hash, file=told, flush=True)
        os._exit(0)
    children.append(pid)
sys.exit(max(os.waitpid(pid, 0)[1] for pid in children))
"""


@dataclass(frozen=True)
class Books:
    """One database with an installed ledger."""

    server: PostgreSQL
    name: str

    @property
    def url(self) -> str:
        """What it is opened with."""
        return self.server.url(self.name)

    def open(self, **more: Any) -> Ledger:
        """The ledger, as its writer."""
        return Ledger(self.url, SIGNER, credentials=lambda: WRITER, **more)

    def run(self, *statements: str) -> list[Any]:
        """Do something as the administrator, the guards switched off for it."""
        with self.server.connect(self.name) as connection, connection.transaction():
            connection.execute(f"SET LOCAL search_path = {SCHEMA}")
            for table in TABLES:
                connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
            for statement in statements:
                found = connection.execute(statement)
            rows = list(found.fetchall()) if found.description else []
            for table in TABLES:
                connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL")
                for (name,) in connection.execute(
                    "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND NOT tgisinternal",
                    (table,),
                ).fetchall():
                    connection.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")
        return rows


@pytest.fixture(scope="session")
def template(postgresql: PostgreSQL) -> str:
    """A database with an installed, empty ledger, to be copied."""
    postgresql.run("CREATE DATABASE installed")
    told = install(postgresql.url("installed"), postgresql.admin, WRITER)
    assert told.endswith("installed, 'writer' may read and add")
    return "installed"


def fresh(postgresql: PostgreSQL, template: str) -> Iterator[Books]:
    """A copy of the empty ledger."""
    name = f"books{next(NUMBERS)}"
    postgresql.run(f"CREATE DATABASE {name} TEMPLATE {template}")
    postgresql.run(f"REVOKE CREATE, TEMPORARY ON DATABASE {name} FROM PUBLIC")
    yield Books(postgresql, name)
    postgresql.run(f"DROP DATABASE {name} WITH (FORCE)")


books = pytest.fixture(fresh)
untouched = pytest.fixture(fresh, scope="module")


@pytest.fixture(scope="module")
def forever(untouched: Books) -> Books:
    """Twenty entries that no test succeeds in changing."""
    return filled(untouched)


@pytest.fixture
def twenty(books: Books) -> Books:
    """Twenty entries, to be changed."""
    return filled(books)


def filled(books: Books) -> Books:
    """Twenty entries, the tenth signed."""
    ticks = itertools.count(1)
    ledger = books.open(clock=lambda: next(ticks))
    for i in range(1, 21):
        body = {"table": "DEMO/ohlcv-1d", "marker": f"marker-{i:02d}"}
        ledger.append("read", body, WHO, subject=f"run:{i % 3}")
        if i == 10:
            ledger.checkpoint()
    return books


def rewritten(rows: list[Any], start: int) -> list[tuple[Any, ...]]:
    """The rows with entry `start` changed and every hash after it recomputed."""
    kept, made = rows[: start - 1], []
    prev = kept[-1][7] if kept else GENESIS
    for row in rows[start - 1 :]:
        body = canonical({**json.loads(row[4]), "marker": "forged"}) if row[0] == start else row[4]
        line = (*row[:4], body, row[5], prev)
        prev = link(*line)
        made.append((*line, prev))
    return made


def literal(row: tuple[Any, ...]) -> str:
    """A row as SQL."""
    return ", ".join(
        "NULL" if v is None else str(v) if isinstance(v, int) else "'" + v.replace("'", "''") + "'"
        for v in row
    )


# --- work as usual ---


def test_it_answers_the_same_questions_as_the_file(twenty: Books, tmp_path: Path) -> None:
    here, ticks = twenty.open(), itertools.count(1)
    there = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", SIGNER, clock=lambda: next(ticks))
    for e in here.entries():
        there.append(e.kind, e.body, WHO)
    asked: list[Callable[[Ledger], object]] = [
        lambda x: x.entries("read", limit=3),
        lambda x: x.entries(subject="run:1", table="DEMO/ohlcv-1d"),
        lambda x: x.entries(who="quant7", limit=2),
        lambda x: x.entries(marker="marker-07"),
        lambda x: x.entries(absent=None, limit=1),
        lambda x: x.entries(since=15),
        lambda x: x.touched("run:2", 3, before=15),
        lambda x: x.entry(20),
        lambda x: x.tail(3).rows(),
        lambda x: x.leaves(3, 7),
        lambda x: str(x.checkpoint()),
    ]
    for ask in asked:
        assert ask(here) == ask(there)
    assert here.verify().entries == 20


def test_the_server_recomputes_every_hash(books: Books) -> None:
    ledger = books.open()
    for text in ("Zürich", '\x01\x1f\x7f\t\n\r\b\f"\\/ \u2028 \U0001f600', "a" * 5000, "\\u0041"):
        ledger.append(text[:40], {"text": text, "n": [1, -0.5, 1e300, None, True]}, WHO, subject=text[:20])
    assert ledger.verify().entries == 4
    with pytest.raises(ValueError, match="does not take this text"):
        ledger.append("read", {"text": "a\x00b"}, WHO)
    assert ledger.append("read", {}, WHO).seq == 5


def test_eight_processes_append_to_one_chain_through_a_restart(books: Books, tmp_path: Path) -> None:
    """Their password goes through a pipe, and what was acknowledged is written down at once."""
    ledger = books.open()
    parent = subprocess.Popen([sys.executable, "-c", EIGHT, books.url, str(tmp_path)], stdin=subprocess.PIPE)
    assert parent.stdin is not None
    parent.stdin.write(WRITER["password"].reveal().encode() + b"\n")
    parent.stdin.close()
    while (head := ledger.head()) is None or head.seq < 100:
        assert parent.poll() is None
        time.sleep(0.01)
    books.server.control("restart", "-m", "immediate")
    assert parent.wait(60) == 0
    assert ledger.verify().entries == 320
    for writer in "abcdefgh":
        lines = ledger.entries(writer=writer)
        assert [e.body["i"] for e in lines] == list(range(40))  # nothing lost, nothing twice
        assert [e.hash for e in lines] == (tmp_path / writer).read_text().split()


def test_the_settings_open_it(books: Books, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(books.server.ca.read_bytes())
    where = f"postgresql://127.0.0.1:{books.server.port}/{books.name}?ca=ca.pem&secret=ledger"
    asked: list[str] = []
    secrets = SimpleNamespace(fields=lambda name: asked.append(name) or WRITER)
    ledger = open_ledger(read(tmp_path, {"ledger_url": where}), lambda: SIGNER, lambda: secrets)
    assert ledger.append("read", {}, WHO).seq == 1
    assert ledger.verify(checkpoint=ledger.checkpoint()).checkpoints == 1
    assert set(asked) == {"ledger"}
    assert WRITER["password"].reveal() not in repr(vars(ledger)) + repr(vars(ledger._shelf))


# --- a commit that nobody answers ---


class Cut:
    """Breaks the connection around a commit of a ledger, once."""

    def __init__(self, ledger: Ledger, *, after: bool) -> None:
        """Remember when."""
        self.after, self.done = after, 0
        shelf = ledger._shelf
        assert isinstance(shelf, PostgresShelf)
        self.dialect = shelf.db.dialect
        self.commit = self.dialect.do_commit

    def __call__(self, connection: Any) -> None:
        """Commit and lose the answer, or lose the connection before."""
        self.done += 1
        if self.done == 1:
            if self.after:
                self.commit(connection)
            connection.dbapi_connection.close()
        self.commit(connection)


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
@pytest.mark.parametrize("others", [False, True], ids=["alone", "others went on"])
def test_a_lost_answer_is_acknowledged_once(
    books: Books, monkeypatch: pytest.MonkeyPatch, after: bool, others: bool
) -> None:
    ledger, beside = books.open(), books.open()
    ledger.append("read", {"i": 0}, WHO)
    cut = Cut(ledger, after=after)

    def commit(connection: Any) -> None:
        try:
            cut(connection)
        finally:
            if others and cut.done == 1:
                beside.append("read", {"i": "other"}, WHO)

    monkeypatch.setattr(cut.dialect, "do_commit", commit)
    entries = ledger.append_many([("read", {"i": i}, None) for i in (1, 2)], WHO)
    assert cut.done >= 2
    assert [e.body["i"] for e in ledger.entries(limit=9) if e.body["i"] != "other"] == [0, 1, 2]
    assert [ledger.entry(e.seq) for e in entries] == entries
    assert ledger.verify().entries == 3 + others


def test_a_commit_that_hangs_is_found_and_not_repeated(books: Books) -> None:
    ledger, server = books.open(), books.server
    ledger.append("read", {"i": 0}, WHO)
    server.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    server.run("SELECT pg_reload_conf()")
    told: list[Entry] = []
    thread = threading.Thread(target=lambda: told.append(ledger.append("read", {"i": 1}, WHO)))
    try:
        time.sleep(0.2)
        thread.start()
        waiting = (
            f"SELECT pid FROM pg_stat_activity WHERE datname = '{books.name}' AND wait_event = 'SyncRep'"
        )
        while not (pids := server.run(waiting)):
            time.sleep(0.02)
        server.run("ALTER SYSTEM RESET synchronous_standby_names")
        server.run(f"SELECT pg_terminate_backend({pids[0][0]})")  # on its disk, and never answered
    finally:
        server.run("ALTER SYSTEM RESET synchronous_standby_names")
        server.run("SELECT pg_reload_conf()")
        thread.join(30)
    assert [e.seq for e in told] == [2]
    assert [e.body["i"] for e in books.open().entries()] == [0, 1]


def test_it_gives_up_and_says_what_is_known(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = books.open()
    ledger.append("read", {"i": 0}, WHO)
    shelf = ledger._shelf
    assert isinstance(shelf, PostgresShelf)
    shelf.patience = 0.3
    cut = Cut(ledger, after=True)

    def commit(connection: Any) -> None:
        try:
            cut(connection)
        finally:
            monkeypatch.setattr(
                "researchkit.security.postgresql.asked_of", lambda server: {"host": "127.0.0.1", "port": 1}
            )

    monkeypatch.setattr(cut.dialect, "do_commit", commit)
    with pytest.raises(
        WorkspaceError, match="it may be on the ledger or not, look before it is written again"
    ):
        ledger.append("read", {"i": 1}, WHO)
    with pytest.raises(WorkspaceError, match="nothing was done") as told:
        ledger.append("read", {"i": 2}, WHO)
    assert WRITER["password"].reveal() not in f"{told.value!r} {told.getrepr(showlocals=True)}"


# --- rights ---


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = '{}'",
        "DELETE FROM entries WHERE seq = 20",
        "TRUNCATE entries",
        "ALTER TABLE entries DISABLE TRIGGER entries_keep",
        "DROP TRIGGER entries_keep ON entries",
        "CREATE OR REPLACE FUNCTION researchkit.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER more BEFORE INSERT ON entries EXECUTE FUNCTION researchkit.refuse()",
        "CREATE RULE quiet AS ON INSERT TO entries DO INSTEAD NOTHING",
        "DROP TABLE entries",
        "CREATE TABLE researchkit.entries2 (n int)",
        "CREATE TEMPORARY TABLE entries (n int)",
        "SET session_replication_role = replica",
        f"SET ROLE {OWNER}",
        f"GRANT {OWNER} TO writer",
        "ALTER ROLE writer SUPERUSER",
        "UPDATE revision SET number = '0001'",
        "INSERT INTO revision VALUES ('9999')",
        "COPY entries TO PROGRAM 'cat'",
    ],
)
def test_the_writer_may_only_read_and_add(forever: Books, statement: str) -> None:
    who = {k: v.reveal() for k, v in WRITER.items()}
    with forever.server.connect(forever.name, **who) as connection:
        connection.execute(f"SET search_path = {SCHEMA}")
        with pytest.raises(psycopg.Error) as told:
            connection.execute(statement)
        assert told.value.sqlstate in ("42501", "0A000"), told.value
        with pytest.raises(psycopg.Error):  # and not within a function that it may define either
            connection.execute(f"DO $$ BEGIN EXECUTE '{statement.replace(chr(39), chr(39) * 2)}'; END $$")
    assert forever.open().verify().entries == 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({0: 22}, "must follow the last one"),
        ({6: "f" * 64}, "must follow the last one"),
        ({3: "run:other"}, "stands under the subject that it names"),
        ({7: "f" * 64}, "carries the hash of itself"),
        ({2: "verdict"}, "carries the hash of itself"),
    ],
)
def test_a_stolen_password_puts_no_nonsense_on_the_chain(
    forever: Books, change: Mapping[int, Any], words: str
) -> None:
    last = forever.open().head()
    assert last is not None
    line: list[Any] = [21, 5, "read", "run:1", '{"subject":"run:1"}', canonical(WHO.line()), last.hash]
    line.append(link(*line))
    for place, value in change.items():
        line[place] = value
    who = {k: v.reveal() for k, v in WRITER.items()}
    with (
        forever.server.connect(forever.name, **who) as connection,
        pytest.raises(psycopg.IntegrityError, match=words),
    ):
        connection.execute(f"INSERT INTO {SCHEMA}.entries VALUES ({literal(tuple(line))})")


def test_whoever_may_do_more_is_refused(books: Books) -> None:
    with pytest.raises(AccessDenied, match="user 'admin' may change what is there"):
        Ledger(books.url, credentials=lambda: books.server.admin)
    books.run("GRANT UPDATE (body) ON entries TO writer")
    with pytest.raises(AccessDenied, match="user 'writer' may change what is there"):
        books.open()
    assert "found as it was" in install(books.url, books.server.admin, WRITER)  # which takes it back
    assert books.open().head() is None
    books.run("REVOKE INSERT ON entries FROM writer")
    with pytest.raises(AccessDenied, match="its user may only read and add"):
        books.open().append("read", {}, WHO)


def test_what_was_not_installed_is_not_opened(books: Books, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="nothing is installed there; an administrator runs"):
        Ledger(books.server.url("postgres"), credentials=lambda: WRITER)
    books.run("UPDATE revision SET number = '9999'")
    with pytest.raises(WorkspaceError, match="revision 9999, this program needs 0002: update researchkit"):
        books.open()
    books.run("UPDATE revision SET number = '0001'")
    with pytest.raises(WorkspaceError, match="an administrator runs `researchkit ledger install`"):
        books.open()
    with pytest.raises(WorkspaceError, match="at another revision than 0002; nothing was changed"):
        install(books.url, books.server.admin, WRITER)
    wrong = {**WRITER, "password": Secret("-".join(("guess", "ed")))}
    with pytest.raises(SecretUnavailable, match="refuses the user or password") as told:
        Ledger(books.url, credentials=lambda: wrong)
    assert "guess-ed" not in str(told.getrepr(showlocals=True, chain=True))
    other = Authority(tmp_path / "other").ca
    with pytest.raises(WorkspaceError, match="certificate verify failed"):
        Ledger(f"{books.url.partition('?')[0]}?ca={other}", credentials=lambda: WRITER)
    books.run(f"UPDATE revision SET number = '{REVISION}'")
    with pytest.raises(WorkspaceError, match="was not installed, nothing was changed: permission denied"):
        install(books.url, WRITER, {**WRITER, "user": Secret("somebody")})


def test_variables_of_a_shell_lead_nowhere_else(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGHOSTADDR": "192.0.2.1",
        "PGSSLMODE": "disable",
        "PGOPTIONS": "-c search_path=public -c synchronous_commit=off",
        "PGUSER": "admin",
        "PGPASSWORD": "x",
        "PGCHANNELBINDING": "disable",
        "PGSSLROOTCERT": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    ledger = books.open()
    ledger.append("read", {}, WHO)
    rows = "SELECT current_setting('synchronous_commit'), current_setting('search_path'), current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    found = ledger._shelf.read(lambda c: c.exec_driver_sql(rows).one())
    assert tuple(found) == ("on", "researchkit,pg_temp", "writer", True)


# --- the owner's hand ---


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (
            "UPDATE entries SET body = replace(body, 'marker-17', 'marker-71') WHERE seq = 17",
            "entry 17: hash differs",
        ),
        ("UPDATE entries SET ts = ts + 1 WHERE seq = 17", "entry 17: hash differs"),
        ("UPDATE entries SET subject = NULL WHERE seq = 17", "entry 17: hash differs"),
        ("DELETE FROM entries WHERE seq = 17", "entry 17 is missing"),
        ("DELETE FROM entries WHERE seq > 8", "ends at entry 8, and entry 10 was signed"),
        ("TRUNCATE entries", "ends at entry 0, and entry 10 was signed"),
        (
            "UPDATE entries SET seq = CASE seq WHEN 17 THEN -18 ELSE -17 END WHERE seq IN (17, 18)",
            "missing|differs",
        ),
        ("UPDATE checkpoints SET text = replace(text, '10', '11')", "signature|was changed|does not fit"),
        ("UPDATE nodes SET hash = hash", ""),
    ],
)
def test_an_owner_who_edits_is_seen(twenty: Books, statement: str, words: str) -> None:
    assert twenty.open().verify().entries == 20
    twenty.run(statement)
    if not words:
        return
    with pytest.raises(IntegrityError, match=words):
        twenty.open().verify()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("ALTER TABLE entries DISABLE TRIGGER entries_keep", "trigger entries_keep was switched off"),
        (
            "ALTER TABLE entries ENABLE TRIGGER entries_next",
            "trigger entries_next was switched off or replaced",
        ),
        ("DROP TRIGGER checkpoints_stay ON checkpoints", "trigger checkpoints_stay was removed"),
        (
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "function refuse was replaced",
        ),
        (
            "CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            "CREATE TRIGGER quiet BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION quiet()",
            "trigger entries.quiet was not installed with it",
        ),
        ("CREATE RULE quiet AS ON INSERT TO entries DO INSTEAD NOTHING", "entries is not the plain table"),
        (
            "ALTER TABLE entries ENABLE ROW LEVEL SECURITY",
            "entries is not the plain table|entry 1 is missing|ends at",
        ),
        ("ALTER TABLE entries SET UNLOGGED", "entries is not the plain table"),
    ],
)
def test_a_guard_that_is_gone_is_named(books: Books, statement: str, words: str) -> None:
    books.open().append("read", {}, WHO)
    books.server.run(f"SET search_path = {SCHEMA}; {statement}", books.name)
    with pytest.raises(IntegrityError, match=words):
        books.open().verify()
    if "quiet" in statement:  # and its line is not acknowledged
        with pytest.raises(IntegrityError, match="0 of 1 ledger entries were taken"):
            books.open().append("read", {}, WHO)


def test_a_rewritten_history_is_seen_by_the_note_kept_elsewhere(twenty: Books) -> None:
    kept = twenty.open().checkpoint()
    rows = twenty.run("SELECT * FROM entries ORDER BY seq")
    forged = [f"INSERT INTO entries VALUES ({literal(row)})" for row in rewritten(rows, 5)]
    twenty.run("DELETE FROM entries WHERE seq >= 5", *forged, "DELETE FROM nodes")
    with pytest.raises(
        IntegrityError, match="ledger entries 1 to 10: not what was signed, history was rewritten"
    ):
        twenty.open().verify()
    twenty.run("DELETE FROM checkpoints")
    ledger = twenty.open()
    resigned = ledger.checkpoint()  # by an owner who has the signing key as well
    assert ledger.verify(checkpoint=resigned).entries == 20
    for full in (True, False):
        with pytest.raises(IntegrityError, match="two checkpoints disagree, history was rewritten"):
            ledger.verify(checkpoint=kept, full=full)


def test_an_index_that_hides_entries_is_seen(twenty: Books) -> None:
    path = twenty.server.folder / "data" / twenty.run("SELECT pg_relation_filepath('entries_subject')")[0][0]
    twenty.server.control("stop")
    content = bytearray(path.read_bytes())
    assert content.count(b"run:1") > 0
    path.write_bytes(content.replace(b"run:1", b"run:7"))
    twenty.server.control("start")
    with pytest.raises((IntegrityError, WorkspaceError), match=r"damaged|invalid page|index"):
        twenty.open().verify()


# --- a stolen writer ---


def as_writer(books: Books, statement: str, *values: object) -> None:
    """Do something with the writer's password, and without the ledger."""
    who = {k: v.reveal() for k, v in WRITER.items()}
    with books.server.connect(books.name, **who) as connection:
        connection.execute(f"SET search_path = {SCHEMA}")
        connection.execute(statement, values)


@pytest.mark.parametrize(
    ("subject", "body", "context"),
    [
        ("5", '{"subject":5}', None),
        (None, "[]", None),
        (None, "{}", "nope"),
        (None, "{}", "[]"),
        (None, "{}", "{}"),
        (None, '{"a":' + "9" * 5000 + "}", None),
        (None, '{"a":' + "[" * 5000 + "]" * 5000 + "}", None),
        (None, '{"a":"' + "x" * (1 << 20) + '"}', None),
    ],
)
def test_no_insert_stops_the_ledger_on_a_server(
    forever: Books, subject: str | None, body: str, context: str | None
) -> None:
    head = forever.open().head()
    assert head is not None
    line = (head.seq + 1, 5, "read", subject, body, context or canonical(WHO.line()), head.hash)
    with pytest.raises((psycopg.IntegrityError, psycopg.DataError)):
        as_writer(forever, f"INSERT INTO entries VALUES ({', '.join(['%s'] * 8)})", *line, link(*line))
    assert forever.open().head() == head


def test_nothing_is_planted_ahead_and_no_unsigned_note_is_believed(twenty: Books) -> None:
    def note(seq: int) -> str:
        return f"{origin_of(SIGNER.public_hex)}\n{seq}\n{'A' * 43}=\n\n— nobody {'A' * 90}==\n"

    for statement, *values in (
        ("INSERT INTO checkpoints VALUES (9000000000, %s)", note(9_000_000_000)),
        ("INSERT INTO checkpoints VALUES (20, 'hello')",),
        ("INSERT INTO checkpoints VALUES (20, %s)", note(19)),
        ("INSERT INTO cosignatures VALUES (10, 'junk')",),
        ("INSERT INTO cosignatures VALUES (11, %s)", "— office AAAA\n"),
        ("INSERT INTO nodes VALUES (8, 0, %s)", bytes(32)),
        ("INSERT INTO nodes VALUES (3, 0, %s)", bytes(32)),
    ):
        with pytest.raises(psycopg.IntegrityError):
            as_writer(twenty, statement, *values)
    as_writer(twenty, "INSERT INTO checkpoints VALUES (20, %s)", note(20))
    for more in range(2):
        with pytest.raises(IntegrityError, match=r"kept checkpoint of entry 20 is none.*nothing is signed"):
            twenty.open().checkpoint()
        twenty.open().append("read", {"more": more}, WHO)


@pytest.mark.parametrize(
    ("grant", "take", "words"),
    [
        (
            "GRANT pg_write_server_files TO writer",
            "REVOKE pg_write_server_files FROM writer",
            "is a member of",
        ),
        ("ALTER ROLE writer CREATEROLE", "ALTER ROLE writer NOCREATEROLE", "may create roles"),
        (
            "ALTER ROLE writer CREATEDB BYPASSRLS",
            "ALTER ROLE writer NOCREATEDB NOBYPASSRLS",
            "and passes by row",
        ),
    ],
)
def test_a_writer_that_could_become_more_is_refused(books: Books, grant: str, take: str, words: str) -> None:
    open_before = books.open()
    try:
        books.server.run(grant)
        with pytest.raises(AccessDenied, match=words):
            books.open()
        with pytest.raises(AccessDenied, match=words):
            open_before.verify()
        assert "found as it was" in install(books.url, books.server.admin, WRITER)  # which takes it back
        assert books.open().verify().entries == 0
    finally:
        books.server.run(take)


@pytest.mark.parametrize("fault", ["sealed", "held"])
def test_a_commit_without_an_answer_is_never_called_nothing(
    books: Books, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    state: dict[str, Any] = {}

    def credentials() -> Mapping[str, Secret]:
        if state.get("sealed"):
            raise SecretUnavailable("the Vault is sealed")
        return WRITER

    ledger = Ledger(books.url, SIGNER, credentials=credentials)
    ledger.append("read", {"i": 0}, WHO)
    shelf = ledger._shelf
    assert isinstance(shelf, PostgresShelf)
    shelf.patience = 0.5
    cut = Cut(ledger, after=True)

    def commit(connection: Any) -> None:
        try:
            cut(connection)
        finally:
            if fault == "sealed":
                state["sealed"] = True
            elif "held" not in state:
                state["held"] = books.server.connect(books.name)
                state["held"].execute(f"SELECT pg_advisory_lock({client._PLACE})")

    monkeypatch.setattr(cut.dialect, "do_commit", commit)
    monkeypatch.setitem(client._SESSION, "lock_timeout", "200ms")  # type: ignore[arg-type]
    with pytest.raises(WorkspaceError, match="it may be on the ledger or not") as told:
        ledger.append("read", {"i": 1}, WHO)
    assert "nothing was done" not in str(told.value)
    state.pop("sealed", None)
    if "held" in state:
        state["held"].close()
    assert [e.body["i"] for e in books.open().entries()] == [0, 1]


def test_an_index_is_as_installed_and_what_was_not_compared_is_said(twenty: Books) -> None:
    twenty.server.run("DROP EXTENSION IF EXISTS amcheck", twenty.name)
    assert "indexes were not compared with their tables" in str(twenty.open().verify())
    twenty.server.run("DROP INDEX researchkit.entries_subject", twenty.name)
    with pytest.raises(IntegrityError, match="index entries_subject was removed or replaced"):
        twenty.open().verify()


@pytest.mark.parametrize(
    ("given", "index"),
    [
        ({"kind": "read", "who": "quant7"}, "entries_kind_who"),
        ({"who": "quant7", "since": 5}, "entries_who"),
        ({"kind": "read", "since": 5}, "entries_kind"),
    ],
)
def test_questions_on_a_server_use_the_indexes(forever: Books, given: dict[str, Any], index: str) -> None:
    shelf = forever.open()._shelf
    text, values = question(shelf.dialect, given, {}, 5)

    def plan(connection: sa.Connection) -> str:
        for way in ("seqscan", "sort", "bitmapscan"):
            connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        return "\n".join(connection.execute(sa.text(f"EXPLAIN {text}"), values).scalars())

    found = shelf.read(plan)
    assert f"{index} on entries" in found or "entries_pkey on entries" in found, found
    assert "kind" not in given or "who" not in given or index in found, found
    assert "since" not in given or "seq >= $" in found or "seq >= (Init" in found, found
