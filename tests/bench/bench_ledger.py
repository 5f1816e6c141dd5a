"""Lines of the ledger beside the least that makes a row durable; a million verified, and ten million searched."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from researchkit.settings import environment

os.environ.update(environment())
sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))

import psycopg
from measuring import case
from postgresql import PostgreSQL, serving
from tls import Authority

from researchkit.context import Context, Principal
from researchkit.security.chain import GENESIS, canonical
from researchkit.security.installation import install
from researchkit.security.ledger import Ledger
from researchkit.security.secret import Secret

CONTEXT = Context(Principal("quant", ("quant",), "os-user"))
BODY = {
    "subject": "table:DEMO/ohlcv-1d",
    "table": "DEMO/ohlcv-1d",
    "columns": ["close", "symbol"],
    "snapshot": 1,
}
ROW = (0, "read", BODY["subject"], canonical(BODY), canonical(CONTEXT.line()), GENESIS, GENESIS)
COLUMNS = "ts BIGINT, kind TEXT, subject TEXT, body TEXT, context TEXT, prev TEXT, hash TEXT"
BATCH = 1_000
THINGS = 10_000  # objects that the entries of the large ledger are about


def rate(work: Callable[[], object], entries: int) -> float:
    """Entries a second, by the clock."""
    work()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < 2.0:
        work()
        done += entries
    return done / (time.perf_counter() - begun)


def appending(name: str, ledger: Ledger, one: Callable[[], None], many: Callable[[], None]) -> None:
    """Append one by one and batched, beside bare inserts into the same kind of database."""
    lines = [("read", BODY, None)] * BATCH
    for words, ours, peer, entries in (
        ("append one entry", lambda: ledger.append("read", BODY, CONTEXT), one, 1),
        (f"append {BATCH:,} entries in one turn", lambda: ledger.append_many(lines, CONTEXT), many, BATCH),
    ):
        speed = f"{rate(ours, entries):,.0f} entries a second by the clock, bare {rate(peer, entries):,.0f}"
        beside = f"bare {name} inserts in one transaction, fsync on"
        case(f"{words}, {name}", ours=ours, peer=peer, versus=beside, size=speed, rounds=5)


def bare_file(path: Path) -> sqlite3.Connection:
    """A SQLite file under the same rules of durability as the ledger's."""
    base = sqlite3.connect(path, isolation_level=None)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=FULL")
    base.execute(f"CREATE TABLE entries (seq INTEGER PRIMARY KEY, {COLUMNS})")
    return base


def on_sqlite(place: Path) -> None:
    """Append to a file."""
    base, ledger = bare_file(place / "bare.db"), Ledger(f"sqlite:///{place}/ledger.db")
    insert = "INSERT INTO entries (ts, kind, subject, body, context, prev, hash) VALUES (?, ?, ?, ?, ?, ?, ?)"

    def put(rows: list[tuple[Any, ...]]) -> None:
        base.execute("BEGIN IMMEDIATE")
        base.executemany(insert, rows)
        base.execute("COMMIT")

    appending("SQLite", ledger, lambda: put([ROW]), lambda: put([ROW] * BATCH))


def on_postgresql(server: PostgreSQL) -> None:
    """Append to a server on the same machine."""
    writer = {"user": Secret("writer"), "password": Secret("of the bench")}
    server.run("CREATE DATABASE books")
    install(server.url("books"), server.admin, writer)
    ledger = Ledger(server.url("books"), credentials=lambda: writer)
    base: psycopg.Connection[Any] = server.connect()
    base.execute(f"CREATE TABLE entries (seq BIGSERIAL PRIMARY KEY, {COLUMNS})")
    insert = "INSERT INTO entries (ts, kind, subject, body, context, prev, hash) VALUES (%s, %s, %s, %s, %s, %s, %s)"

    def put(rows: list[tuple[Any, ...]]) -> None:
        with base.transaction(), base.cursor() as cursor:
            cursor.executemany(insert, rows)

    appending("PostgreSQL", ledger, lambda: put([ROW]), lambda: put([ROW] * BATCH))


def chained(count: int) -> Iterator[tuple[Any, ...]]:
    """Rows of a whole chain; entry n is about thing n modulo THINGS."""
    sha256, prev = hashlib.sha256, GENESIS
    context = canonical(CONTEXT.line())
    quoted = canonical(context)
    for seq in range(1, count + 1):
        about = f"raw:{seq % THINGS}"
        body = f'{{"subject":"{about}"}}'
        line = f'["researchkit ledger entry 1",{seq},{seq},"read","{about}","{{\\"subject\\":\\"{about}\\"}}",{quoted},"{prev}"]'
        digest = sha256(line.encode()).hexdigest()
        yield seq, seq, "read", about, body, context, prev, digest
        prev = digest


def bulk(path: Path, count: int) -> Ledger:
    """Build a ledger of many entries, without its guards and other indexes while the rows go in."""
    Ledger(f"sqlite:///{path}")._shelf.db.dispose()  # type: ignore[attr-defined]
    base = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000", "threads = 2"):
        base.execute(f"PRAGMA {pragma}")
    kept = "SELECT type, name, sql FROM sqlite_master WHERE tbl_name = 'entries' AND type IN ('index', 'trigger') AND sql IS NOT NULL"
    parts = base.execute(kept).fetchall()
    for kind, name, _ in parts:
        base.execute(f"DROP {kind} {name}")
    base.execute("BEGIN")
    base.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", chained(count))
    for _, name, sql in parts:
        if count <= 1_000_000 or name in ("entries_subject", "entries_next", "entries_keep", "entries_stay"):
            base.execute(sql)
    base.execute("COMMIT")
    base.close()
    return Ledger(f"sqlite:///{path}")


def verifying(place: Path, count: int = 1_000_000) -> None:
    """Verify a long ledger, beside fetching its rows and hashing as many bytes."""
    ledger = bulk(place / "long.db", count)

    def peer() -> None:
        base = sqlite3.connect(place / "long.db")
        for row in base.execute("SELECT * FROM entries ORDER BY seq"):
            hashlib.sha256("".join(map(str, row)).encode()).hexdigest()
        base.close()

    begun = time.perf_counter()
    ledger.verify()
    size = f"{count:,} entries, {time.perf_counter() - begun:.1f} s by the clock"
    case(
        "verify the whole ledger", ours=ledger.verify, peer=peer, versus="fetch and hash", size=size, rounds=1
    )


def searching(place: Path, count: int = 10_000_000) -> None:
    """Ask who touched one of many things."""
    begun = time.perf_counter()
    ledger = bulk(place / "large.db", count)
    built = time.perf_counter() - begun
    base = sqlite3.connect(place / "large.db")
    query = "SELECT * FROM entries WHERE subject = ? ORDER BY seq DESC LIMIT 1000"
    begun = time.perf_counter()
    found = len(ledger.touched("raw:4711", limit=1_000))
    took = f"{count:,} entries, built in {built:.0f} s; {found:,} lines in {1e3 * (time.perf_counter() - begun):.0f} ms by the clock, cold"
    case(
        "who touched one object, its last 1,000 lines",
        ours=lambda: ledger.touched("raw:4711", limit=1_000),
        peer=lambda: base.execute(query, ("raw:4711",)).fetchall(),
        versus="a bare indexed SQLite query",
        size=took,
    )


def main() -> None:
    """Every case."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        on_sqlite(place)
        with serving(place, Authority(place / "authority")) as server:
            on_postgresql(server)
        verifying(place)
        (place / "long.db").unlink()
        searching(place)


if __name__ == "__main__":
    main()
