"""A stand-in for the live gateway: plain TCP, a challenge, and then records, broken off on demand.

It plays the days of `market` as fast as they can be read. Its clock is the market's: `now` is the
instant up to which everything has happened, and moves on with every record that is sent. Whatever
shall go wrong is said beforehand with `next`:

    gateway.next("cut", after=200, away=30 * 10**9)   # after 200 records, and 30 s of market are missed
    gateway.next("silence", after=10)                 # the line stays open and nothing comes any more
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import heapq
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import market
import numpy as np
from market import DATASETS, STYPES, Market
from tls import Authority

KEY = "db-a-key-for-the-tests-0123456789"
KINDS: Mapping[str, str] = {
    "refuse": "does not let the client in",
    "cut": "hangs up after `after` records; `away` nanoseconds of market are missed",
    "half": "hangs up in the middle of a record",
    "silence": "keeps the line open and sends nothing more, not even a heartbeat",
    "lose": "leaves out `records` records and says nothing",
    "skip": "leaves out `records` records and says that the reader is slow",
    "flag": "marks a record as following a loss at the exchange",
    "twice": "sends a record twice",
    "error": "sends an error, and hangs up",
}
START = market.nanos(date(2024, 1, 2), 14, 30)  # the first trade of the year comes after it
END = START + market.DAY
CODES = {"heartbeat": 0, "subscribed": 1, "slow": 2, "replayed": 3}


@dataclass
class Fault:
    """What shall go wrong in the next session that sends so many records."""

    kind: str  # one of KINDS
    after: int = 0  # records of the session
    away: int = 0  # nanoseconds until the market is heard again
    records: int = 1


@dataclass
class Asked:
    """A subscription."""

    schema: str
    stype: str
    symbols: list[str]
    start: int | None


@dataclass
class Gateway:
    """What is running, and what it shall break."""

    key: str = field(default=KEY, repr=False)
    port: int = 0
    market: Market = field(default_factory=Market)
    now: int = START
    until: int = END  # where the market ends
    then: str = "close"  # or "idle": heartbeats go on, twenty a second
    replay: int = END - START  # how far back a session may begin
    faults: list[Fault] = field(default_factory=list)
    sessions: list[list[Asked]] = field(default_factory=list)  # what each session subscribed to
    life: int = 0  # how often it was reset; a session that an earlier one began moves nothing any more
    stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, *, secret: str = "vendor") -> str:
        """What `live_url` says."""
        return f"tcp://127.0.0.1:{self.port}?secret={secret}"

    def next(self, kind: str, **how: int) -> None:
        """Break the next session in this way."""
        if kind not in KINDS:
            raise ValueError(f"a fault is one of {', '.join(KINDS)}, got {kind}")
        self.faults.append(Fault(kind, **how))

    def reset(self, now: int = START, until: int = END, *, then: str = "close") -> None:
        """Begin anew: no faults, no memory, another time of the market."""
        with self._lock:
            self.life += 1
            self.faults.clear()
            self.sessions.clear()
            self.now, self.until, self.then, self.replay = now, until, then, END - START

    def move(self, at: int, life: int) -> None:
        """Move the clock forward, for a session that began in this life."""
        with self._lock:
            if life != self.life:
                raise ConnectionAbortedError("the gateway was reset")
            self.now = max(self.now, at)

    def due(self, life: int, sent: int, *kinds: str) -> Fault | None:
        """What shall go wrong after so many records of a session that began in this life."""
        with self._lock:
            for fault in self.faults if life == self.life else ():
                if fault.kind in kinds and fault.after <= sent:
                    self.faults.remove(fault)
                    return fault
        return None

    # --- a session ---

    def talk(self, line: socket.socket) -> None:
        """Serve one client until he, the market or a fault ends it."""
        life = self.life
        words = line.makefile("rb")
        challenge = secrets.token_hex(16)
        line.sendall(f"lsg_version=0.7.0\ncram={challenge}\n".encode())
        given = _parsed(words.readline())
        wanted = hashlib.sha256(f"{challenge}|{self.key}".encode()).hexdigest() + "-" + self.key[-5:]
        if self.due(life, 0, "refuse") or given.get("auth") != wanted:
            line.sendall(b"success=0|error=Authentication failed.\n")
            return
        dataset = given["dataset"]
        if dataset not in DATASETS:
            line.sendall(f"success=0|error=Unknown dataset {dataset}.\n".encode())
            return
        line.sendall(f"success=1|session_id={secrets.randbelow(10**9)}\n".encode())
        asked: list[Asked] = []
        self.sessions.append(asked)
        while "start_session" not in (told := _parsed(words.readline())):
            if not told:
                return
            if told["schema"] not in market.RECORDS or told["stype_in"] not in STYPES:
                line.sendall(self._said(f"{told['schema']} is not available", error=True))
                return
            begin = int(told["start"]) if told.get("start") else None
            asked.append(Asked(told["schema"], told["stype_in"], told["symbols"].split(","), begin))
        self.play(line, dataset, asked, int(given.get("heartbeat_interval_s") or 30) * 10**9, life)

    def play(self, line: socket.socket, dataset: str, asked: list[Asked], beat: int, life: int) -> None:
        """Send the head, the symbols, and then the market."""
        replays, live = [a.schema for a in asked if a.start is not None], self.now
        starts = [self.now if a.start is None else max(a.start, self.now - self.replay) for a in asked]
        start = min(starts, default=self.now)
        line.sendall(self.market.header(dataset, None, [], "raw_symbol", start, None))
        line.sendall(b"".join(self._mapped(dataset, a, start) for a in asked))
        line.sendall(self._said("Subscription request 1 succeeded", code="subscribed", at=start))
        last, sent, out = start, 0, bytearray()
        left, slow = 0, False
        for at, record in self._records(dataset, asked, starts):
            if self.due(life, sent, "silence"):
                self.move(at, life)
                line.sendall(out)
                self.stopping.wait()
                return
            if fault := self.due(life, sent, "cut", "half", "error"):
                self.move(min(max(self.now, at) + fault.away, self.until), life)
                line.sendall(out + {"half": record[: len(record) // 2]}.get(fault.kind, b""))
                if fault.kind == "error":
                    line.sendall(self._said("The session was ended by the server", error=True))
                return
            if fault := self.due(life, sent, "lose", "skip"):
                left, slow = fault.records, fault.kind == "skip"
            if left:
                left -= 1
                out += self._said("Records were skipped", code="slow", at=at) if slow and not left else b""
                self.move(at, life)
                last, sent = at, sent + 1
                continue
            if at >= live and replays:
                out += b"".join(self._said(f"Finished {s} replay", code="replayed", at=live) for s in replays)
                replays.clear()
            for quiet in range(max(last, live) + beat, at, beat):
                out += self._said("Heartbeat", at=quiet)
            out += self._treated(record, sent, life)
            self.move(at, life)
            last, sent = at, sent + 1
            if len(out) > 16_384:
                line.sendall(out)
                out.clear()
        self.move(self.until, life)
        out += b"".join(self._said(f"Finished {s} replay", code="replayed", at=live) for s in replays)
        for quiet in range(max(last, live) + beat, self.until, beat):
            out += self._said("Heartbeat", at=quiet)
        line.sendall(out + self._said("Heartbeat", at=self.until))
        at = self.until
        while self.then == "idle" and not self.stopping.wait(0.05):
            at += beat
            self.move(at, life)
            line.sendall(self._said("Heartbeat", at=at))

    def _treated(self, record: bytes, sent: int, life: int) -> bytes:
        """A record, or what a fault makes of it."""
        if len(record) in (48, 80) and self.due(life, sent, "flag"):  # trades and quotes, which have flags
            made = bytearray(record)
            made[30] |= 4
            return bytes(made)
        return record * 2 if self.due(life, sent, "twice") else record

    def _records(self, dataset: str, asked: list[Asked], starts: list[int]) -> Iterator[tuple[int, bytes]]:
        """What happens from the starts on, by the time at which it is sent."""
        streams = []
        for number, (one, start) in enumerate(zip(asked, starts, strict=True)):
            found = self.market.records(dataset, one.schema, one.symbols, one.stype, start, self.until)
            clock = found["ts_recv" if "ts_recv" in found.dtype.names else "ts_event"].astype(np.int64)
            clock = clock + market.BARS.get(one.schema, 0)  # a bar is sent when it is over
            width, data = found.dtype.itemsize, found.tobytes()
            streams.append(
                [(int(t), number, i, data[i * width : (i + 1) * width]) for i, t in enumerate(clock)]
            )
        for at, _, _, record in heapq.merge(*streams):
            if at < self.until:
                yield at, record

    def _mapped(self, dataset: str, asked: Asked, start: int) -> bytes:
        """Which number means which contract today."""
        day = market.day_of(start)
        found = {
            c.number: (s, c)
            for s in asked.symbols
            for d in (day, market.day_of(self.until - 1))
            for c in self.market.resolve(dataset, s, asked.stype, d)
        }
        made = np.zeros(len(found), dbn.SymbolMappingMsg._dtypes)
        for row, (symbol, contract) in zip(made, found.values(), strict=True):
            row["length"], row["rtype"] = 176 // 4, 0x16
            row["publisher_id"], row["instrument_id"] = 0, contract.number
            row["ts_event"], row["start_ts"], row["end_ts"] = start, market.nanos(day), 2**64 - 1
            row["stype_in"] = {"raw_symbol": 1, "parent": 4, "continuous": 3, "instrument_id": 0}[asked.stype]
            row["stype_in_symbol"], row["stype_out_symbol"] = symbol.encode(), contract.symbol.encode()
            row["stype_out"] = 1
        return made.tobytes()

    def _said(
        self, text: str, *, code: str = "heartbeat", at: int | None = None, error: bool = False
    ) -> bytes:
        """A message of the gateway itself."""
        kind = dbn.ErrorMsg if error else dbn.SystemMsg
        made = np.zeros(1, kind._dtypes)
        made["length"], made["rtype"] = 320 // 4, 0x15 if error else 0x17
        made["ts_event"] = self.now if at is None else at
        made["err" if error else "msg"] = text.encode()
        made["code"] = 255 if error else CODES[code]
        return made.tobytes()


def _parsed(line: bytes) -> dict[str, str]:
    return {k: v for k, _, v in (w.partition("=") for w in line.decode().strip().split("|")) if k}


@contextlib.contextmanager
def serving(
    folder: Path, authority: Authority | None = None, *, port: int = 0, **how: Any
) -> Iterator[Gateway]:
    """The stand-in, running; the real one speaks no TLS either."""
    gateway = Gateway(**how)
    listener = socket.create_server(("127.0.0.1", port))
    listener.settimeout(0.1)
    gateway.port = listener.getsockname()[1]

    def accept() -> None:
        while not gateway.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                line, _ = listener.accept()
                threading.Thread(target=serve, args=(line,), daemon=True).start()

    def serve(line: socket.socket) -> None:
        line.settimeout(60)
        with contextlib.suppress(OSError), line:
            gateway.talk(line)
            line.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield gateway
    finally:
        gateway.stopping.set()
        thread.join()
        listener.close()


def main() -> None:
    """Serve until somebody presses Ctrl-C."""
    words = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    words.add_argument("--port", type=int, default=13000)
    words.add_argument("--key", default=KEY, help="the key that is accepted")
    words.add_argument("--day", type=date.fromisoformat, default=date(2024, 1, 2), help="what is played")
    asked = words.parse_args()
    begin = market.nanos(asked.day)
    how = {"key": asked.key, "now": begin, "until": begin + market.DAY, "then": "idle"}
    with serving(Path(), port=asked.port, **how) as gateway:
        print(f'live_url = "{gateway.url()}"', flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            gateway.stopping.wait()


if __name__ == "__main__":
    main()
