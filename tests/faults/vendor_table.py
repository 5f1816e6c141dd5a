"""Everything that can go wrong with a vendor, one purchase each, and what became of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import market
from vendor import Vendor

from researchkit.context import Context, Principal
from researchkit.data.dbn import read
from researchkit.data.door import Door
from researchkit.data.historical import open_vendor
from researchkit.data.line import Patience
from researchkit.data.orders import Order, order_of
from researchkit.data.purchase import Purchases
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.errors import ResearchKitError
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install
from researchkit.security.secret import Secret
from researchkit.settings import Settings

ME = Context(Principal("engineer3", ("data-engineer",)))
SECONDS = 0.4  # of silence until a line is dead
IN = "in the lake"
Faults = tuple[tuple[str, str, dict[str, Any]], ...]


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong."""

    where: str  # "asking", "ordering", "waiting", "listing", "fetching", "content"
    what: str  # in words
    faults: Faults
    first: str = IN  # what the first attempt comes to: IN, or words of the refusal
    again: str = ""  # what the same purchase comes to once the fault is over; "": as the first
    paid: int = 1  # how many jobs were made for it after both
    waits: float = 0.0  # seconds at least that were waited in the first attempt

    @property
    def often(self) -> bool:
        """Whether every run of the tests looks at it."""
        return (self.where, self.what) not in SELDOM


def some(kind: str, holding: str, times: int = 1, **how: Any) -> Faults:
    """One sort of fault."""
    return ((kind, holding, {"times": times, **how}),)


ASK, ORDER, WAIT, LIST, FETCH = "get_cost", "submit_job", "list_jobs", "list_files", ".dbn.zst"
ALWAYS, ENDLESS = 10_000, 500
CUT = some("cut", FETCH, at=200)
CASES = (
    Case("asking", "401", some("401", ASK), "refuses the key", IN),
    Case("asking", "402", some("402", ASK), "has no money of this account left", IN),
    Case("asking", "403", some("403", ASK), "does not permit it", IN),
    Case("asking", "422", some("422", ASK), "does not accept the request", IN),
    Case("asking", "429 with Retry-After: 7, twice", some("429", ASK, 2, retry_after="7"), waits=14),
    Case("asking", "429 without Retry-After, twice", some("429", ASK, 2)),
    Case("asking", "429 with Retry-After: 86400", some("429", ASK, retry_after="86400"), "asks to wait 86,400 s", IN),
    Case("asking", "a storm of four 500s", some("500", ASK, 4)),
    Case("asking", "503 with Retry-After: 9", some("503", ASK, retry_after="9"), waits=9),
    Case("asking", "500 without end", some("500", ASK, ALWAYS), "has a fault of its own", IN),
    Case("asking", "hangs up, twice", some("drop", ASK, 2)),
    Case("asking", "says nothing", some("stall", ASK)),
    Case("asking", "a web page instead of JSON, always", some("page", ASK, ALWAYS), "not JSON", IN),
    Case("asking", "half an answer", some("cut", ASK, at=3)),
    Case("ordering", "402", some("402", ORDER), "has no money of this account left", IN),
    Case("ordering", "422", some("422", ORDER), "does not accept the request", IN),
    Case("ordering", "429, twice", some("429", ORDER, 2)),
    Case("ordering", "500, nothing was ordered", some("500", ORDER)),
    Case("ordering", "hangs up before it has ordered", some("drop", ORDER)),
    Case("ordering", "orders, and the answer is lost", some("lose", ORDER)),
    Case("ordering", "orders, and half the answer is lost", some("cut", ORDER, at=60)),
    Case("ordering", "orders, says nothing, and the list of jobs fails too",
         some("lose", ORDER) + some("500", WAIT, 3)),
    Case("ordering", "makes two jobs of one order", some("twice", ORDER), paid=2),
    Case("waiting", "a job that never ends", some("never", ORDER), "it is paid for: go on with", IN),
    Case("waiting", "a job whose files have expired", some("expired", ORDER), "have expired at the vendor", IN, paid=2),
    Case("waiting", "every job listed twice", some("twice", WAIT, ALWAYS)),
    Case("waiting", "the job is missing in the list for a while", some("nothing", WAIT, 4)),
    Case("listing", "wrong hashes", some("hash", LIST, ALWAYS), "it came so twice", IN),
    Case("listing", "sizes that are too great", some("size", LIST, ALWAYS, at=5), "sends fewer bytes", IN),
    Case("listing", "every file twice", some("twice", LIST)),
    Case("listing", "MD5 instead of SHA-256", some("md5", LIST), "without a SHA-256", IN),
    Case("listing", "addresses at another host", some("elsewhere", LIST), "no other host is asked", IN),
    Case("listing", "a name that leads out of the folder", some("escape", LIST), "a file that is not kept", IN),
    Case("listing", "no file at all", some("nothing", LIST), "lists no file", IN),
    Case("fetching", "cut after 200 bytes", CUT),
    Case("fetching", "cut after every 40 bytes", some("cut", FETCH, 20, at=40)),
    Case("fetching", "says nothing after 100 bytes", some("stall", FETCH, at=100)),
    Case("fetching", "one bit is wrong, once", some("flip", FETCH, at=150)),
    Case("fetching", "one bit is wrong, always", some("flip", FETCH, ALWAYS, at=150), "it came so twice", IN),
    Case("fetching", "a short body, once", some("short", FETCH, at=7)),
    Case("fetching", "a short body, always", some("short", FETCH, ALWAYS, at=500), "sends fewer bytes", IN),
    Case("fetching", "an over-long body, once", some("long", FETCH, at=7)),
    Case("fetching", "an over-long body, always", some("long", FETCH, ALWAYS, at=7), "long at the vendor", IN),
    Case("fetching", "cut, and then the whole file instead of the rest", CUT + some("whole", FETCH)),
    Case("fetching", "cut, and then another part than was asked for", CUT + some("shift", FETCH, at=9)),
    Case("fetching", "cut, and then another version of the file, once", CUT + some("changed", FETCH)),
    Case("fetching", "another version of the file, always", some("changed", FETCH, ALWAYS), "it came so twice", IN),
    Case("fetching", "429 with Retry-After: 7", some("429", FETCH, retry_after="7"), waits=7),
    Case("fetching", "a storm of four 500s", some("500", FETCH, 4)),
    Case("fetching", "401 in the middle", CUT + some("401", FETCH), "refuses the key", IN),
    Case("fetching", "404", some("404", FETCH), "does not have what was asked for", IN),
    Case("fetching", "points to another host", some("redirect", FETCH), "no redirect is followed", IN),
    Case("content", "cut in the middle, and the hash is that of the cut file", some("damaged", ORDER), "truncated"),
    Case("content", "two records fewer than the job counts", some("fewer", ORDER, at=2), "by the vendor's count"),
    Case("content", "files of no bytes", some("empty", ORDER), "empty"),
    Case("content", "another schema than was ordered", some("other", ORDER), "as was ordered"),
)  # fmt: skip
SELDOM = {
    ("asking", "403"), ("asking", "422"), ("asking", "503 with Retry-After: 9"), ("asking", "hangs up, twice"),
    ("asking", "half an answer"), ("asking", "500 without end"), ("asking", "429 with Retry-After: 86400"),
    ("ordering", "500, nothing was ordered"), ("ordering", "422"), ("ordering", "hangs up before it has ordered"),
    ("ordering", "orders, and half the answer is lost"), ("ordering", "429, twice"),
    ("waiting", "every job listed twice"), ("waiting", "the job is missing in the list for a while"),
    ("listing", "MD5 instead of SHA-256"), ("listing", "a name that leads out of the folder"),
    ("fetching", "a short body, once"), ("fetching", "an over-long body, once"), ("fetching", "404"),
    ("fetching", "another version of the file, always"), ("fetching", "a storm of four 500s"),
    ("fetching", "cut after 200 bytes"), ("fetching", "429 with Retry-After: 7"),
}  # fmt: skip


@dataclass(frozen=True)
class Told:
    """What became of one case."""

    case: Case
    first: str  # IN, or the refusal
    again: str
    paid: int  # jobs
    requests: int
    waited: float  # seconds, in the first attempt
    rows: int  # of the order in the lake, after both
    expected: int
    objects: int  # DBN files of the order in the raw zone, after both


@dataclass
class Shop:
    """Everything a purchase needs, with a clock that runs when it is waited."""

    root: Path
    vendor: Vendor
    slept: float = 0.0
    pauses: int = 0  # in one case
    rows: dict[str, int] = field(default_factory=dict)  # by object: what the lake was given

    def __post_init__(self) -> None:
        install(self.root / "policy")
        door = Door(Policy(self.root / "policy"), Ledger(f"sqlite:///{self.root}/ledger.db"))
        self.registry = Registry(f"sqlite:///{self.root}/catalog.db")
        keys = Keyring(self.root / "keys")
        self.raw = RawZone(
            self.root / "raw", registry=self.registry, keyring=keys, door=door, immutable=False
        )
        settings = Settings(self.root, vendor_url=self.vendor.url(call=1_000, month=100_000))
        secrets = SimpleNamespace(get=lambda name: Secret(self.vendor.key))
        patience = Patience(attempts=6, sleep=self.sleep, chance=lambda: 0.0)
        asked = open_vendor(settings, lambda: secrets, patience=patience, seconds=(SECONDS, SECONDS))
        self.purchases = Purchases(
            vendor=asked, raw=self.raw, lake=SimpleNamespace(ingest=self.ingest, ingest_many=self.ingest_many), registry=self.registry,
            door=door, folder=self.root / "purchases", signed=lambda resource: True,
            clock=self.clock, sleep=self.sleep, wait=3_600.0,
        )  # fmt: skip

    def clock(self) -> int:
        """Now, and as much later as was waited."""
        return time.time_ns() + int(self.slept * 1e9)

    def sleep(self, seconds: float) -> None:
        """Wait without waiting."""
        self.slept, self.pauses = self.slept + seconds, self.pauses + 1
        if self.pauses > ENDLESS:
            raise RuntimeError(f"{self.pauses} pauses for one purchase: it would go on for ever")

    def ingest(self, sha256: str, *, context: Context) -> None:
        """Count what a lake would bring in, once."""
        self.rows.setdefault(sha256, read(self.raw.get(sha256, context=context, action="ingest")).height)

    def ingest_many(self, objects: list[str], *, context: Context, **_: Any) -> None:
        """The same for several."""
        for sha256 in objects:
            self.ingest(sha256, context=context)

    def attempt(self, order: Order) -> str:
        """Buy, and say what came of it."""
        try:
            self.purchases.buy(order, context=ME)
        except ResearchKitError as e:
            return _plain(str(e))
        return IN

    def run(self, case: Case, order: Order) -> Told:
        """One case."""
        vendor = self.vendor
        vendor.clear()
        self.rows.clear()
        self.pauses = 0
        slept = self.slept
        for kind, holding, how in case.faults:
            vendor.next(kind, holding, **how)
        first, waited = self.attempt(order), self.slept - slept
        vendor.faults.clear()
        for job in vendor.jobs.values():
            job.spoilt = None if job.spoilt and job.spoilt.kind in ("never", "twice") else job.spoilt
        again = self.attempt(order)
        found = market.DATASETS["XNAS.ITCH"]
        expected = sum(
            len(vendor.market.bars(c, market.day_of(day), order.schema))
            for c in found if c.symbol in order.symbols
            for day in range(order.start, order.end, market.DAY)
        )  # fmt: skip
        objects = [
            o
            for o in self.raw.objects()
            if o.name.startswith(order.tag) and f"-{market.day_of(order.start):%Y%m%d}" in o.name
        ]
        return Told(
            case, first, again, len(vendor.jobs), vendor.asked, waited, sum(self.rows.values()), expected,
            len(objects),
        )  # fmt: skip


def orders() -> Iterator[Order]:
    """Weeks that nobody owns yet."""
    for symbol in ("AAPL", "MSFT"):
        for week in range(25):
            start = date(2024, 1, 8) + timedelta(days=7 * week)
            yield order_of("XNAS.ITCH/ohlcv-1d", symbol, str(start), str(start + timedelta(days=5)))
    for symbol in ("AAPL,MSFT",):
        for week in range(25):
            start = date(2024, 1, 8) + timedelta(days=7 * week)
            yield order_of("XNAS.ITCH/ohlcv-1h", symbol, str(start), str(start + timedelta(days=5)))


def _plain(words: str) -> str:
    """A refusal without what differs from run to run."""
    words = re.sub(r"127\.0\.0\.1:\d+", "HOST", re.sub(r"XNAS-\d+-\d+", "JOB", words))
    words = re.sub(r"after 3,6\d\d s", "after an hour", words)
    words = re.sub(r"\b[0-9a-f]{64}\b", "…", re.sub(r"req-\d+", "req-…", words))
    return re.sub(r"(order |--resume |md5:)[0-9a-f]{12,}", r"\1…", words)


@contextmanager
def shop(root: Path, vendor: Vendor) -> Iterator[Shop]:
    """A shop, and a vendor who is as he was afterwards."""
    vendor.clear()
    try:
        yield Shop(root, vendor)
    finally:
        vendor.clear()


def row(told: Told) -> str:
    """A line of the table."""
    again = "the same" if told.again == told.first else told.again
    return f"| {told.case.where} | {told.case.what} | {told.first} | {again if told.first != IN else ''} | {told.paid} |"


def wrong(told: Told) -> list[str]:
    """What did not turn out as the case says."""
    case, made = told.case, []
    if case.first not in told.first:
        made.append(f"first: {told.first}")
    if (case.again or case.first) not in told.again:
        made.append(f"again: {told.again}")
    if told.paid != case.paid or told.waited < case.waits:
        made.append(f"{told.paid} jobs, waited {told.waited:.0f} s")
    whole = told.again == IN
    if told.rows != told.expected * whole or told.objects != whole:
        made.append(f"{told.rows} of {told.expected} rows, {told.objects} objects")
    return made


def cut_everywhere(root: Path, vendor: Vendor, *, step: int) -> tuple[int, int]:
    """Fetch one file, cut after 0, 1, 2, … bytes, each time into an empty folder; returns its size and how many cuts."""
    from researchkit.data.download import fetch
    from researchkit.data.historical import Listed

    vendor.clear()
    settings = Settings(root, vendor_url=vendor.url())
    secrets = SimpleNamespace(get=lambda name: Secret(vendor.key))
    patience = Patience(attempts=3, sleep=lambda seconds: None)
    line = open_vendor(settings, lambda: secrets, patience=patience, seconds=(5.0, 5.0)).line
    asked = {
        "dataset": "XNAS.ITCH",
        "schema": "ohlcv-1d",
        "symbols": "AAPL",
        "start": "2024-01-08",
        "end": "2024-01-13",
    }
    job = vendor.jobs[vendor.submit(asked | {"compression": "zstd", "split_duration": "none"}, None)["id"]]
    job.asked = vendor.polls
    (entry,) = [e for e in vendor.listing(job, vendor.files(job)) if e["filename"].endswith(".zst")]
    listed, data = Listed.of(entry, line), vendor.files(job)[entry["filename"]]
    places = sorted({*range(0, len(data), step), 1, len(data) - 1})
    for at in places:
        vendor.next("cut", ".zst", at=at)
        path = fetch(line, listed, root / str(at), patience=patience)
        if path.read_bytes() != data or list((root / str(at)).glob("arriving/*")):
            raise AssertionError(f"cut after {at} bytes: {path} is not what was sent")
    vendor.clear()
    return len(data), len(places)
