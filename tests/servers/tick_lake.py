"""A lake with a door, and files of trades for it: what the tests of scans, of time and of pins stand on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from researchkit.context import Context, Principal
from researchkit.data.door import Door
from researchkit.data.encode import encode, encode_bars
from researchkit.data.envelope import layout
from researchkit.data.lake import Lake
from researchkit.data.pins import Pins
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

TRADES, BARS = "XNAS.TEST/trades", "DEMO/ohlcv-1d"
DAY = 86_400 * 10**9
ME = Context(Principal("tester", ("data-engineer", "quant")))
GRANTS = """{"roles": {"quant": [{"action": "read", "resource": "*"}], "data-engineer": [
    {"action": "ingest", "resource": "*"}, {"action": "pin", "resource": "*"}, {"action": "upkeep", "resource": "*"}]}}"""


def ns(text: str) -> int:
    """An instant as people write it, UTC."""
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1_000


@dataclass(frozen=True)
class Trade:
    """One trade of a file."""

    at: int  # ns UTC
    symbol: str
    price: float
    size: int = 1
    sequence: int = 0
    late: int = 1_000  # ns until it was received
    side: str = "A"


def trades_file(
    trades: Sequence[Trade], span: tuple[int, int], symbols: Sequence[str] = ("AAA", "BBB")
) -> bytes:
    """A file as the vendor would send it; what it was asked for are the symbols and the span."""
    ids = {s: i for i, s in enumerate(symbols, 1)}
    records = np.zeros(len(trades), layout("trades"))
    for name, values in (
        ("ts_event", [t.at for t in trades]), ("ts_recv", [t.at + t.late for t in trades]),
        ("price", [round(t.price * 1e9) for t in trades]), ("size", [t.size for t in trades]),
        ("sequence", [t.sequence for t in trades]), ("instrument_id", [ids[t.symbol] for t in trades]),
    ):  # fmt: skip
        records[name] = values
    records["side"] = [t.side.encode() for t in trades]
    records["action"], records["publisher_id"] = b"T", 2
    return encode(records, dataset="XNAS.TEST", schema="trades", ids=ids, span=span)


def as_trades(frame: pl.DataFrame) -> list[Trade]:
    """Rows of a scan as trades again, in the order of their numbers."""
    columns = ("ts_event", "symbol", "price", "size", "sequence", "ts_recv", "side")
    found = frame.sort("sequence").with_columns(pl.col("ts_event", "ts_recv").to_physical()).select(columns)
    return [
        Trade(at, s, float(p), size, n, seen - at, side)
        for at, s, p, size, n, seen, side in found.iter_rows()
    ]


def walk(rows: int, day: int, symbols: Sequence[str], seed: int = 0) -> bytes:
    """A day of random trades, in the order in which they were received."""
    rng = np.random.default_rng(seed)
    records = np.zeros(rows, layout("trades"))
    at = np.sort(rng.integers(0, DAY - 10**6, rows)) + day
    records["ts_event"], records["ts_recv"] = at, at + rng.integers(1_000, 10**6, rows)
    records["price"] = 10**11 + np.cumsum(rng.integers(-3, 4, rows)) * 10**7
    records["size"], records["sequence"] = rng.integers(1, 500, rows), np.arange(rows)
    records["instrument_id"] = rng.integers(1, len(symbols) + 1, rows)
    records["publisher_id"], records["action"], records["side"] = (
        2,
        b"T",
        rng.choice([b"A", b"B", b"N"], rows),
    )
    ids = {s: i for i, s in enumerate(symbols, 1)}
    return encode(records, dataset="XNAS.TEST", schema="trades", ids=ids, span=(day, day + DAY))


@dataclass
class Place:
    """A workspace without the workspace: the parts of a lake, and what brings objects into it."""

    root: Path
    clock: list[int] = field(default_factory=lambda: [ns("2024-03-01T20:00")])

    def __post_init__(self) -> None:
        if not (self.root / "policy").exists():
            install(self.root / "policy")
            (self.root / "policy" / "grants.json").write_text(GRANTS)
        self.registry = Registry(f"sqlite:///{self.root}/catalog.db")
        self.door = Door(Policy(self.root / "policy"), Ledger(f"sqlite:///{self.root}/ledger.db"))
        zone: dict[str, Any] = {
            "registry": self.registry,
            "keyring": Keyring(self.root / "keys"),
            "door": self.door,
        }
        self.raw = RawZone(self.root / "raw", immutable=False, clock=lambda: self.clock[0], **zone)
        self.lake = Lake(self.root / "lake", registry=self.registry, raw=self.raw, door=self.door)
        self.pins = Pins(registry=self.registry, lake=self.lake, door=self.door, clock=lambda: self.clock[0])

    def bring(self, content: bytes, name: str, **rest: Any) -> str:
        """Put a file into the raw zone and into the lake; its hash."""
        found = self.raw.put(content, name=name, key="market", context=ME)
        self.lake.ingest(found.sha256, context=ME, **rest)
        return found.sha256

    def bars(self, frame: pl.DataFrame, name: str, **rest: Any) -> str:
        """The same for daily bars."""
        return self.bring(encode_bars(frame, dataset="DEMO", schema="ohlcv-1d"), name, **rest)

    def scan(self, table: str = TRADES, **asked: Any) -> pl.DataFrame:
        """A scan, collected."""
        return self.lake.scan(table, context=ME, **asked).collect()
