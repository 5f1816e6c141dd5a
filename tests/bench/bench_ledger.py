"""One line of the ledger, beside the least that makes a row durable."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from pathlib import Path

from researchkit.settings import environment

os.environ.update(environment())

from measuring import case

from researchkit.context import Context, Principal
from researchkit.security.ledger import Ledger

BODY = {
    "subject": "table:DEMO/ohlcv-1d",
    "table": "DEMO/ohlcv-1d",
    "columns": ["close", "symbol"],
    "snapshot": 1,
}
TEXT = '{"columns":["close","symbol"],"snapshot":1,"subject":"table:DEMO/ohlcv-1d","table":"DEMO/ohlcv-1d"}'


def bare(path: Path) -> sqlite3.Connection:
    """A SQLite file under the same rules of durability as the ledger's."""
    base = sqlite3.connect(path, isolation_level=None)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=FULL")
    base.execute(
        "CREATE TABLE entries (seq INTEGER PRIMARY KEY, ts INT, kind TEXT, subject TEXT, body TEXT, context TEXT, prev TEXT, hash TEXT)"
    )
    return base


def main() -> None:
    """Append at the beginning of a ledger and after 5,000 entries; read one subject out of them."""
    with tempfile.TemporaryDirectory() as place:
        base, ledger = bare(Path(place) / "bare.db"), Ledger(f"sqlite:///{place}/ledger.db")
        context = Context(Principal("quant", ("quant",), "os-user"))
        row = ("0", "read", "table:DEMO/ohlcv-1d", TEXT, "{}", "0" * 64, "0" * 64)

        def insert() -> None:
            base.execute("BEGIN IMMEDIATE")
            base.execute(
                "INSERT INTO entries (ts, kind, subject, body, context, prev, hash) VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            base.execute("COMMIT")

        def append() -> None:
            ledger.append("read", BODY, context)

        beside = "a bare SQLite insert and commit, WAL and synchronous=FULL"
        case(
            "append one hashed, chained entry",
            ours=append,
            peer=insert,
            versus=beside,
            size="a new ledger",
            rounds=5,
        )
        while ledger.head().seq < 5_000:
            append()
        case(
            "append one hashed, chained entry",
            ours=append,
            peer=insert,
            versus=beside,
            size="5,000 entries",
            rounds=5,
        )
        query = "SELECT * FROM entries WHERE subject = 'table:DEMO/ohlcv-1d' ORDER BY seq DESC LIMIT 20"
        base.execute("CREATE INDEX by_subject ON entries (subject, seq)")
        case(
            "the last 20 reads of one table",
            ours=lambda: ledger.entries("read", subject="table:DEMO/ohlcv-1d", limit=20),
            peer=lambda: base.execute(query).fetchall(),
            versus="a bare indexed SQLite query",
            size="5,000 entries",
        )


if __name__ == "__main__":
    main()
