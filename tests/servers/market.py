"""A market that never was: futures and shares whose every record follows from its name and day.

The vendor's stand-in sells it and the live gateway sends it, so that what is bought and what was
recorded are the same. Trades come first; bars, quotes and settlements are made from them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import databento_dbn as dbn
import numpy as np
import zstandard

DAY = 86_400 * 10**9
FIRST, LAST = date(2024, 1, 1), date(2024, 7, 1)  # what there is, the end exclusive
HOLIDAYS = frozenset(
    date(2024, month, day) for month, day in ((1, 1), (1, 15), (2, 19), (3, 29), (5, 27), (6, 19))
)
NEW_YORK = ZoneInfo("America/New_York")
UNDEFINED = 2**63 - 1
BARS = {"ohlcv-1s": 10**9, "ohlcv-1m": 60 * 10**9, "ohlcv-1h": 3_600 * 10**9, "ohlcv-1d": DAY}
RECORDS: Mapping[str, tuple[Any, int]] = {  # schema → class of the format, record type
    "trades": (dbn.TradeMsg, 0x00),
    "tbbo": (dbn.MBP1Msg, 0x01),
    "mbp-1": (dbn.MBP1Msg, 0x01),
    "ohlcv-1s": (dbn.OHLCVMsg, 0x20),
    "ohlcv-1m": (dbn.OHLCVMsg, 0x21),
    "ohlcv-1h": (dbn.OHLCVMsg, 0x22),
    "ohlcv-1d": (dbn.OHLCVMsg, 0x23),
    "definition": (dbn.InstrumentDefMsg, 0x13),
    "statistics": (dbn.StatMsg, 0x18),
}
STYPES = ("raw_symbol", "instrument_id", "parent", "continuous")


@dataclass(frozen=True)
class Contract:
    """Something that is traded."""

    symbol: str
    number: int
    publisher: int
    root: str
    price: float  # around which it trades
    tick: int  # in 1e-9
    expiry: date | None = None  # the last day on which it is traded; None: a share

    def listed(self, day: date) -> bool:
        """Whether it can be traded on a day."""
        return self.expiry is None or self.expiry - timedelta(days=200) <= day <= self.expiry


def _quarterly(root: str, number: int, price: float) -> list[Contract]:
    expiries = {"H4": (3, 15), "M4": (6, 21), "U4": (9, 20), "Z4": (12, 20)}
    return [
        Contract(f"{root}{code}", number + i, 1, root, price * (1 + 0.01 * i), 250_000_000, date(2024, *at))
        for i, (code, at) in enumerate(expiries.items())
    ]


DATASETS: Mapping[str, Sequence[Contract]] = {
    "GLBX.MDP3": [*_quarterly("ES", 118, 4_900.0), *_quarterly("NQ", 750, 17_500.0)],
    "XNAS.ITCH": [
        Contract("AAPL", 38, 2, "AAPL", 190.0, 10_000_000),
        Contract("MSFT", 10888, 2, "MSFT", 400.0, 10_000_000),
    ],
}


def sessions(first: date, last: date) -> list[date]:
    """The days from `first` until before `last` on which there is trading."""
    days = (first + timedelta(days=i) for i in range((last - first).days))
    return [d for d in days if d.weekday() < 5 and d not in HOLIDAYS]


def nanos(day: date, hour: int = 0, minute: int = 0, zone: Any = UTC) -> int:
    """An instant of a day in nanoseconds."""
    return int(datetime.combine(day, time(hour, minute), zone).timestamp()) * 10**9


def day_of(ns: int) -> date:
    """The UTC day in which an instant lies."""
    return datetime.fromtimestamp(ns // DAY * 86_400, UTC).date()


@dataclass(frozen=True)
class Market:
    """What happened, as far as anybody asks."""

    a_day: int = 400  # trades of the contract that everybody trades

    def front(self, dataset: str, root: str, day: date, rank: int = 0) -> Contract | None:
        """The contract that expires next, but for those that are left already."""
        chain = [c for c in DATASETS[dataset] if c.root == root and c.expiry and day <= c.expiry]
        return chain[rank] if rank < len(chain) else None

    def resolve(self, dataset: str, symbol: str, stype: str, day: date) -> list[Contract]:
        """Which contracts a symbol means on a day."""
        listed = [c for c in DATASETS[dataset] if c.listed(day)]
        if symbol == "ALL_SYMBOLS":
            return listed
        if stype == "continuous":
            root, _, rank = symbol.split(".")
            found = self.front(dataset, root, day, int(rank))
            return [found] if found else []
        if stype == "parent":
            return [c for c in listed if c.expiry and f"{c.root}.FUT" == symbol]
        return [c for c in listed if symbol == (c.symbol if stype == "raw_symbol" else str(c.number))]

    # --- records ---

    @functools.cache  # noqa: B019
    def trades(self, contract: Contract, day: date) -> Any:
        """Every trade of a contract on a day."""
        if not contract.listed(day) or not sessions(day, day + timedelta(days=1)):
            return np.zeros(0, dbn.TradeMsg._dtypes)
        front = contract.expiry is None or contract is self._busiest(contract, day)
        random = np.random.default_rng(_seed(contract.symbol, day, self.a_day))
        count = max(1, self.a_day if front else self.a_day // 10)
        opens, closes = nanos(day, 9, 30, NEW_YORK), nanos(day, 16, 0, NEW_YORK)
        made = np.zeros(count, dbn.TradeMsg._dtypes)
        made["ts_event"] = np.sort(random.integers(opens, closes, count))
        made["ts_recv"] = made["ts_event"] + random.integers(100_000, 500_000, count).astype(np.uint64)
        level = contract.price * (1 + 0.05 * np.sin((day - FIRST).days / 20))
        steps = round(level * 1e9 / contract.tick) + np.cumsum(random.integers(-2, 3, count))
        made["price"] = steps * contract.tick
        made["size"] = random.integers(1, 20, count)
        made["side"] = random.choice([b"A", b"B"], count)
        made["action"], made["flags"], made["ts_in_delta"] = b"T", 128, 15_000
        made["sequence"] = np.cumsum(random.integers(1, 5, count))
        return _signed(made, "trades", contract)

    def _busiest(self, contract: Contract, day: date) -> Contract | None:
        """Where the volume is: it leaves a contract eight days before its end."""
        dataset = next(d for d, chain in DATASETS.items() if contract in chain)
        return self.front(dataset, contract.root, day + timedelta(days=8))

    def quotes(self, contract: Contract, day: date, schema: str = "tbbo") -> Any:
        """Every trade with the quotes around it."""
        trades = self.trades(contract, day)
        made = np.zeros(len(trades), dbn.MBP1Msg._dtypes)
        for name in trades.dtype.names:
            made[name] = trades[name]
        sold = trades["side"] == b"A"
        made["bid_px_00"] = trades["price"] - np.where(sold, 0, contract.tick)
        made["ask_px_00"] = trades["price"] + np.where(sold, contract.tick, 0)
        made["bid_sz_00"], made["ask_sz_00"] = trades["size"] + 3, trades["size"] + 5
        made["bid_ct_00"] = made["ask_ct_00"] = 1
        return _signed(made, schema, contract)

    def bars(self, contract: Contract, day: date, schema: str) -> Any:
        """The bars that its trades make; none where nobody traded."""
        trades = self.trades(contract, day)
        starts = trades["ts_event"] // BARS[schema] * BARS[schema]
        found, first = np.unique(starts, return_index=True)
        made = np.zeros(len(found), dbn.OHLCVMsg._dtypes)
        if len(found):
            made["ts_event"] = found
            made["open"] = trades["price"][first]
            made["close"] = trades["price"][np.append(first[1:], len(trades)) - 1]
            made["high"] = np.maximum.reduceat(trades["price"], first)
            made["low"] = np.minimum.reduceat(trades["price"], first)
            made["volume"] = np.add.reduceat(trades["size"], first)
        return _signed(made, schema, contract)

    def statistics(self, contract: Contract, day: date) -> Any:
        """Settlement and cleared volume in the evening, open interest of the session before in the morning."""
        trades = self.trades(contract, day)
        if contract.expiry is None or not len(trades):
            return np.zeros(0, dbn.StatMsg._dtypes)
        made = np.zeros(3, dbn.StatMsg._dtypes)
        at = nanos(day, 8, 0, NEW_YORK), nanos(day, 16, 15, NEW_YORK), nanos(day, 18, 0, NEW_YORK)
        made["ts_event"] = made["ts_recv"] = at
        made["ts_ref"] = nanos(day - timedelta(days=1)), nanos(day), nanos(day)
        made["stat_type"] = 9, 3, 6
        made["price"] = UNDEFINED, trades["price"][-1] + contract.tick, UNDEFINED
        made["quantity"] = 1_000 * len(trades), UNDEFINED, trades["size"].sum()
        made["update_action"], made["sequence"] = 1, (1, 2, 3)
        return _signed(made, "statistics", contract)

    def definitions(self, contract: Contract, day: date) -> Any:
        """What the exchange says of a contract at the start of the day."""
        there = contract.listed(day) and bool(sessions(day, day + timedelta(days=1)))
        made = np.zeros(int(there), dbn.InstrumentDefMsg._dtypes)
        for name in made.dtype.names:
            kind = made.dtype[name]
            if kind.kind == "i" or name in ("expiration", "activation"):
                made[name] = np.iinfo(kind).max
        made["ts_event"] = made["ts_recv"] = nanos(day)
        made["min_price_increment"], made["display_factor"] = contract.tick, 10**9
        made["raw_symbol"], made["asset"] = contract.symbol.encode(), contract.root.encode()
        made["raw_instrument_id"], made["currency"] = contract.number, b"USD"
        made["exchange"] = b"XCME" if contract.expiry else b"XNAS"
        made["security_type"] = b"FUT" if contract.expiry else b"EQ"
        made["instrument_class"] = b"F" if contract.expiry else b"K"
        made["security_update_action"], made["match_algorithm"] = b"A", b"F"
        made["user_defined_instrument"] = b"N"
        if contract.expiry:
            made["expiration"] = nanos(contract.expiry, 9, 30, NEW_YORK)
            made["activation"] = nanos(contract.expiry - timedelta(days=200))
            made["contract_multiplier"] = 50 if contract.root == "ES" else 20
            made["maturity_year"], made["maturity_month"] = contract.expiry.year, contract.expiry.month
        return _signed(made, "definition", contract)

    def day(self, schema: str, contract: Contract, day: date) -> Any:
        """The records of one contract on one day."""
        if schema in BARS:
            return self.bars(contract, day, schema)
        if schema in ("tbbo", "mbp-1"):
            return self.quotes(contract, day, schema)
        return {"trades": self.trades, "statistics": self.statistics, "definition": self.definitions}[schema](
            contract, day
        )

    def records(
        self, dataset: str, schema: str, symbols: Iterable[str], stype: str, start: int, end: int
    ) -> Any:
        """Everything that was asked for, in the vendor's order: by its index time."""
        found, parts = day_of(start), []
        while nanos(found) < end:
            meant = {c for s in symbols for c in self.resolve(dataset, s, stype, found)}
            parts += [self.day(schema, c, found) for c in sorted(meant, key=lambda c: c.number)]
            found += timedelta(days=1)
        whole = np.concatenate(parts) if parts else np.zeros(0, RECORDS[schema][0]._dtypes)
        clock = whole["ts_recv" if "ts_recv" in whole.dtype.names else "ts_event"]
        within = (clock >= start) & (clock < end)
        return whole[within][np.argsort(clock[within], kind="stable")]

    # --- symbology ---

    def mappings(
        self, dataset: str, symbols: Iterable[str], stype: str, first: date, last: date
    ) -> dict[str, list[tuple[date, date, Contract]]]:
        """Which contract each symbol meant, from when until when; parents are answered by their contracts."""
        made: dict[str, list[tuple[date, date, Contract]]] = {}
        for symbol in symbols:
            day = first
            while day < last:
                for contract in self.resolve(dataset, symbol, stype, day):
                    broad = stype == "parent" or symbol == "ALL_SYMBOLS"
                    spans = made.setdefault(contract.symbol if broad else symbol, [])
                    if spans and spans[-1][2] is contract and spans[-1][1] == day:
                        spans[-1] = (spans[-1][0], day + timedelta(days=1), contract)
                    else:
                        spans.append((day, day + timedelta(days=1), contract))
                day += timedelta(days=1)
        return made

    def header(
        self,
        dataset: str,
        schema: str | None,
        symbols: Sequence[str],
        stype: str,
        start: int,
        end: int | None,
    ) -> bytes:
        """The head of a file or of a live session."""
        until = day_of(end - 1) + timedelta(days=1) if end else day_of(start)
        spans = self.mappings(dataset, symbols, stype, day_of(start), until)
        mappings = [
            SimpleNamespace(
                raw_symbol=symbol,
                intervals=[
                    SimpleNamespace(start_date=a, end_date=b, symbol=str(c.number)) for a, b, c in found
                ],
            )
            for symbol, found in sorted(spans.items())
        ]
        made = dbn.Metadata(
            dataset=dataset,
            start=start,
            end=end,
            stype_in=dbn.SType.from_str(stype),
            stype_out=dbn.SType.INSTRUMENT_ID,
            schema=None if schema is None else dbn.Schema.from_str(schema),
            symbols=list(symbols),
            mappings=mappings,
            ts_out=False,
            version=3,
        )
        return bytes(made)

    def file(
        self, dataset: str, schema: str, symbols: Sequence[str], stype: str, start: int, end: int
    ) -> tuple[bytes, int]:
        """A file as the vendor writes it, before it is compressed, and how many records it has."""
        found = self.records(dataset, schema, symbols, stype, start, end)
        return self.header(dataset, schema, symbols, stype, start, end) + found.tobytes(), len(found)


def compress(data: bytes) -> bytes:
    """As the vendor compresses: one frame with a checksum."""
    return zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=True).compress(data)


def _signed(records: Any, schema: str, contract: Contract) -> Any:
    """Fill in what every record begins with."""
    records["length"], records["rtype"] = records.dtype.itemsize // 4, RECORDS[schema][1]
    records["publisher_id"], records["instrument_id"] = contract.publisher, contract.number
    return records


def _seed(*words: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "little")
