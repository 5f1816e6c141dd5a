"""A stand-in for hist.databento.com: what the real client asks, answered over HTTPS, and broken on demand.

It sells the days of `market`: estimates, orders, jobs that take their time, files with Range and
ETag, and a bill for every job. Whatever shall go wrong is said beforehand with `next`:

    vendor.next("cut", "download", at=1000)          # the next download ends after 1,000 bytes
    vendor.next("429", retry_after="2", times=3)     # the next three requests are too many
    vendor.next("lose", "submit_job")                # the order is taken, its answer is lost

It is also a program of its own: `python tests/servers/vendor.py --port 8443 --folder /tmp/vendor`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import io
import json
import re
import socket
import ssl
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import market
from market import DATASETS, FIRST, LAST, RECORDS, STYPES, Market
from tls import Authority

KEY = "db-a-key-for-the-tests-0123456789"  # what the account's owner knows
KINDS: Mapping[str, str] = {
    # of any request
    "drop": "hangs up before anything is done",
    "lose": "does what was asked, and hangs up instead of answering",
    "stall": "says nothing for `seconds` after `at` bytes of the body",
    "page": "answers 200 with a web page",
    # of a body
    "cut": "hangs up after `at` bytes of the body",
    "short": "leaves the last `at` bytes out, and the announced length is right",
    "long": "adds `at` bytes, and the announced length is right",
    "flip": "changes a bit of byte `at` of the body",
    "whole": "sends the whole file although a range was asked for",
    "shift": "sends a range that begins `at` bytes too late, and says so",
    "changed": "sends other bytes under another ETag",
    "redirect": "sends the client to another host",
    # of a list of files
    "hash": "lists wrong hashes",
    "size": "lists sizes that are `at` bytes too great",
    "twice": "lists every file twice, or every job, or takes an order twice",
    "md5": "lists hashes of another kind",
    "elsewhere": "lists addresses on another host",
    "escape": "lists a name that leads out of the folder",
    "nothing": "lists nothing at all",
    # of an order, told when it is submitted
    "never": "the job never ends",
    "expired": "the job ends as expired",
    "damaged": "the files are cut in the middle, and their hashes are those of the cut files",
    "fewer": "the files lack their last `at` records, and the job's count does not",
    "empty": "the files are of no bytes",
    "other": "the files hold another schema than was ordered",
}
WORDS: Mapping[int, tuple[str, str]] = {  # status → case, message
    401: ("auth_authentication_failed", "Authentication failed."),
    402: ("account_insufficient_funds", "The account has insufficient funds."),
    403: ("auth_no_dataset_entitlement", "No entitlement for the dataset."),
    404: ("not_found", "Not found."),
    409: ("conflict", "The request conflicts with another."),
    422: ("data_invalid_request", "The request is not valid."),
    429: ("rate_limit_exceeded", "Too many requests."),
    500: ("internal_error", "An internal error occurred."),
    502: ("bad_gateway", "Bad gateway."),
    503: ("unavailable", "The service is unavailable."),
    504: ("timeout", "The gateway timed out."),
}


@dataclass
class Fault:
    """What shall go wrong with the next requests whose path holds a word."""

    kind: str  # one of KINDS, or a status
    holding: str = ""  # a word of the path
    left: int = 1  # how many times
    at: int = 0  # bytes, or records
    seconds: float = 30.0  # of silence
    retry_after: str | None = None  # the header of a 429 or 503


@dataclass(frozen=True)
class Seen:
    """A request that came by."""

    method: str
    path: str  # without the query
    status: int  # of the answer; 0: none was given
    kind: str  # of the fault, "" for none
    span: str  # the Range header
    known: bool  # whether the key was right


@dataclass
class Job:
    """An order that was taken."""

    id: str
    ask: dict[str, Any]
    cost: float  # USD
    records: int
    billed: int  # bytes
    received: str
    spoilt: Fault | None = None
    asked: int = 0  # how often anybody looked at it
    files: dict[str, bytes] = field(default_factory=dict)


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str = "", case: str = "") -> None:
        """Remember the status and its words."""
        super().__init__(message)
        self.status, self.case = status, case or WORDS[status][0]
        self.message = message or WORDS[status][1]


@dataclass
class Vendor:
    """What is running, what it has sold, and what it shall break."""

    ca: Path
    key: str = field(default=KEY, repr=False)
    port: int = 0
    market: Market = field(default_factory=Market)
    price: float = 20.0  # USD for 1e9 bytes; trades of one contract and day are 19 kB
    prices: dict[str, float] = field(default_factory=dict)  # of schemas that cost something else
    polls: int = 1  # how often a job is looked at before it is done
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    asked: int = 0  # requests that came by since it was cleared
    taken: int = 0  # jobs ever, so that no two of them have one name
    stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    # --- for tests ---

    def url(self, *, secret: str = "vendor", call: float | str = 50, month: float | str = 500) -> str:
        """What `vendor_url` says."""
        return f"https://127.0.0.1:{self.port}?secret={secret}&ca={self.ca}&call={call}&month={month}"

    @property
    def gateway(self) -> str:
        """What the real client is given."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def billed(self) -> float:
        """What the account owes by now, in USD."""
        return sum(job.cost for job in self.jobs.values())

    def next(self, kind: str, holding: str = "", *, times: int = 1, **how: Any) -> None:
        """Break the next requests whose path holds a word: "download", "submit_job", "list_jobs", …"""
        if kind not in KINDS and kind not in map(str, WORDS):
            raise ValueError(f"a fault is a status or one of {', '.join(KINDS)}, got {kind}")
        self.faults.append(Fault(kind, holding, times, **how))

    def clear(self) -> None:
        """Break nothing any more, forget every request and every job."""
        with self._lock:
            for kept in (self.faults, self.seen, self.jobs):
                kept.clear()
            self.asked = 0

    def requests(self, holding: str = "") -> list[Seen]:
        """The requests whose path holds a word."""
        return [s for s in self.seen if holding in s.path]

    # --- questions ---

    def due(self, path: str) -> Fault | None:
        """What shall go wrong with a request."""
        with self._lock:
            for fault in self.faults:
                if fault.left and fault.holding in path:
                    fault.left -= 1
                    return fault
        return None

    def estimate(self, ask: Mapping[str, str]) -> tuple[int, int, float]:
        """How many records an order has, its bytes and its price."""
        dataset, schema, symbols, stype, start, end = self.understood(ask)
        found = self.market.records(dataset, schema, symbols, stype, start, end)
        count = min(len(found), int(ask["limit"])) if ask.get("limit") else len(found)
        size = count * found.dtype.itemsize
        return count, size, round(size / 1e9 * self.prices.get(schema, self.price), 9)

    def understood(self, ask: Mapping[str, str]) -> tuple[str, str, list[str], str, int, int]:
        """An order in the market's words, or a refusal in the vendor's."""
        dataset, schema = ask.get("dataset", ""), ask.get("schema", "trades")
        stype = ask.get("stype_in", "raw_symbol")
        if dataset not in DATASETS:
            raise Refused(422, f"Unknown dataset {dataset!r}.", "data_unknown_dataset")
        if schema not in RECORDS:
            raise Refused(
                422, f"The schema {schema!r} is not available for {dataset}.", "data_schema_unsupported"
            )
        if stype not in STYPES:
            raise Refused(422, f"Unknown stype_in {stype!r}.", "symbology_invalid_stype")
        symbols = [s for s in ask.get("symbols", "").split(",") if s]
        if not symbols or len(symbols) > 2_000:
            raise Refused(422, f"From 1 to 2000 symbols, got {len(symbols)}.", "symbology_invalid_request")
        start = instant(ask.get("start") or "")
        end = instant(ask["end"]) if ask.get("end") else (start // market.DAY + 1) * market.DAY
        if end <= start:
            raise Refused(422, "The end must be after the start.", "data_time_range_start_on_or_after_end")
        if start < market.nanos(FIRST):
            raise Refused(422, f"The data begin on {FIRST}.", "data_start_before_available_start")
        if end > market.nanos(LAST):
            raise Refused(422, f"The data end on {LAST}.", "data_end_after_available_end")
        if ask.get("stype_out", "instrument_id") != "instrument_id":
            raise Refused(422, "Orders are answered with instrument_id.", "symbology_invalid_stype")
        meant = self.market.mappings(
            dataset, symbols, stype, market.day_of(start), market.day_of(end - 1) + timedelta(1)
        )
        if not meant:
            raise Refused(422, "None of the symbols could be resolved.", "symbology_invalid_symbol")
        return dataset, schema, symbols, stype, start, end

    # --- orders ---

    def submit(self, ask: dict[str, str], fault: Fault | None) -> dict[str, Any]:
        """Take an order, and charge for it."""
        with self._lock:
            for _ in range(2 if fault and fault.kind == "twice" else 1):
                count, size, cost = self.estimate(ask)
                self.taken += 1
                job = Job(
                    f"{ask['dataset'].split('.')[0]}-20240801-{self.taken:010d}",
                    dict(ask),
                    cost,
                    count,
                    size,
                    datetime.now(UTC).isoformat(),
                    fault,
                )
                self.jobs[job.id] = job
            return self.told(job)

    def state(self, job: Job) -> str:
        """How far a job is."""
        kind = job.spoilt.kind if job.spoilt else ""
        if kind == "never":
            return "processing" if job.asked else "queued"
        if job.asked < self.polls:
            return "queued" if not job.asked else "processing"
        return "expired" if kind == "expired" else "done"

    def told(self, job: Job) -> dict[str, Any]:
        """A job as the vendor shows it."""
        state, ask = self.state(job), job.ask
        done = state in ("done", "expired")
        _, _, _, _, start, end = self.understood(ask)
        files = self.files(job) if state == "done" else {}
        return {
            "id": job.id, "user_id": "TESTUSER", "api_key": "tests", "bill_id": "bill-1" if done else None,
            "cost_usd": job.cost if done else None, "dataset": ask["dataset"], "symbols": ask["symbols"],
            "stype_in": ask.get("stype_in", "raw_symbol"), "stype_out": ask.get("stype_out", "instrument_id"),
            "schema": ask.get("schema", "trades"), "start": spoken(start), "end": spoken(end),
            "limit": int(ask["limit"]) if ask.get("limit") else None, "encoding": ask.get("encoding", "dbn"),
            "compression": ask.get("compression") or "none", "pretty_px": False, "pretty_ts": False,
            "map_symbols": False, "split_symbols": ask.get("split_symbols") == "True",
            "split_duration": ask.get("split_duration", "day"), "split_size": None,
            "delivery": ask.get("delivery", "download"),
            "record_count": job.records if done else None, "billed_size": job.billed if done else None,
            "actual_size": sum(map(len, files.values())) if done else None,
            "package_size": sum(map(len, files.values())) if done else None, "packaging": None,
            "state": state, "ts_received": job.received, "ts_queued": job.received,
            "ts_process_start": None if state == "queued" else job.received,
            "ts_process_done": job.received if done else None,
            "ts_expiration": "2099-01-01T00:00:00+00:00" if done else None,
            "progress": {"queued": 0, "processing": 50}.get(state, 100),
        }  # fmt: skip

    def listed(self, query: Mapping[str, str], fault: Fault | None) -> list[dict[str, Any]]:
        """The jobs of the account, oldest first."""
        states = (query.get("states") or "queued,processing,done").split(",")
        since = instant(query["since"]) if query.get("since") else 0
        with self._lock:
            found = [self.told(job) for job in self.jobs.values() if instant(job.received) >= since]
            for job in self.jobs.values():
                job.asked += 1
        found = [told for told in found if told["state"] in states]
        if str(query.get("short", "")).lower() == "true":
            found = [{k: told[k] for k in ("id", "state", "ts_received")} for told in found]
        if fault and fault.kind == "nothing":
            return []
        return found * 2 if fault and fault.kind == "twice" else found

    def job(self, name: str) -> Job:
        """A job by its name."""
        if name not in self.jobs:
            raise Refused(404, f"No job {name!r}.", "batch_job_not_found")
        return self.jobs[name]

    # --- files ---

    def files(self, job: Job) -> dict[str, bytes]:
        """What a job delivers, made once."""
        with self._lock:
            if not job.files:
                job.files = self._made(job)
            return job.files

    def _made(self, job: Job) -> dict[str, bytes]:
        dataset, schema, symbols, stype, start, end = self.understood(job.ask)
        if job.spoilt and job.spoilt.kind == "other":
            schema = "ohlcv-1h" if schema != "ohlcv-1h" else "ohlcv-1d"
        made: dict[str, bytes] = {}
        parts = [[s] for s in symbols] if job.ask.get("split_symbols") == "True" else [symbols]
        for first, last in _spans(start, end, job.ask.get("split_duration", "day")):
            for part in parts:
                data, count = self.market.file(dataset, schema, part, stype, first, last)
                if count:
                    mark = f".{part[0]}" if len(parts) > 1 else ""
                    name = f"{dataset.lower().replace('.', '-')}-{_named(first, last)}.{schema}{mark}.dbn"
                    packed = self._packed(job, data, RECORDS[schema][0].size_hint)
                    made[name + (".zst" if job.ask.get("compression") == "zstd" else "")] = packed
        notes = {
            "condition.json": self.conditions(market.day_of(start), market.day_of(end - 1)),
            "metadata.json": {"version": 1, "job_id": job.id, "query": job.ask},
            "symbology.json": self.resolved({**job.ask, "start_date": str(market.day_of(start)),
                                             "end_date": str(market.day_of(end - 1) + timedelta(1))}),
        }  # fmt: skip
        made |= {name: json.dumps(note, indent=2).encode() for name, note in notes.items()}
        listing = {"job_id": job.id, "files": self.listing(job, made)}
        return made | {"manifest.json": json.dumps(listing, indent=2).encode()}

    def _packed(self, job: Job, data: bytes, record: int) -> bytes:
        kind, at = (job.spoilt.kind, job.spoilt.at) if job.spoilt else ("", 0)
        if kind == "fewer":
            data = data[: -record * max(1, at)]
        packed = market.compress(data) if job.ask.get("compression") == "zstd" else data
        return {"damaged": packed[: len(packed) // 2], "empty": b""}.get(kind, packed)

    def listing(
        self, job: Job, files: Mapping[str, bytes], fault: Fault | None = None
    ) -> list[dict[str, Any]]:
        """Files with their sizes, hashes and addresses."""
        kind, at = (fault.kind, fault.at) if fault else ("", 0)
        host = "https://127.0.0.2:9" if kind == "elsewhere" else self.gateway
        made = []
        for name, data in files.items():
            word = "sha256" if kind != "md5" else "md5"
            digest = hashlib.new(word, data + b"!" * (kind == "hash")).hexdigest()
            shown = f"../{name}" if kind == "escape" else name
            made.append({
                "filename": shown, "size": len(data) + at * (kind == "size"), "hash": f"{word}:{digest}",
                "urls": {"https": f"{host}/v0/batch/download/TESTUSER/{job.id}/{name}",
                         "ftp": f"ftp://ftp.invalid/TESTUSER/{job.id}/{name}"},
            })  # fmt: skip
        return {"nothing": [], "twice": made * 2}.get(kind, made)

    # --- the rest ---

    def conditions(self, first: date, last: date) -> list[dict[str, Any]]:
        """How good the data of each session are."""
        return [
            {"date": str(d), "condition": "available", "last_modified_date": str(d + timedelta(days=1))}
            for d in market.sessions(max(first, FIRST), min(last + timedelta(days=1), LAST))
        ]

    def resolved(self, ask: Mapping[str, str]) -> dict[str, Any]:
        """What symbols meant, as symbology.resolve says it."""
        dataset, stype = ask["dataset"], ask.get("stype_in", "raw_symbol")
        out = ask.get("stype_out", "instrument_id")
        first = date.fromisoformat(ask["start_date"][:10])
        last = date.fromisoformat(ask["end_date"][:10]) if ask.get("end_date") else first + timedelta(days=1)
        wanted = ("raw_symbol",) if stype == "instrument_id" else ("instrument_id",)
        if dataset not in DATASETS or stype not in STYPES or out not in wanted:
            raise Refused(
                422, f"{stype} cannot be resolved to {out} in {dataset}.", "symbology_invalid_stype"
            )
        symbols = [s for s in ask.get("symbols", "").split(",") if s]
        found = self.market.mappings(dataset, symbols, stype, first, last)
        result = {
            symbol: [
                {"d0": str(a), "d1": str(b), "s": c.symbol if out == "raw_symbol" else str(c.number)}
                for a, b, c in spans
            ]
            for symbol, spans in found.items()
        }
        broad = stype == "parent" or symbols == ["ALL_SYMBOLS"]
        missing = [] if broad and found else [s for s in symbols if s not in found]
        partial = [
            s for s, spans in result.items() if spans[0]["d0"] > str(first) or spans[-1]["d1"] < str(last)
        ]
        return {
            "result": result, "symbols": symbols, "stype_in": stype, "stype_out": out,
            "start_date": str(first), "end_date": str(last), "partial": partial, "not_found": missing,
            "message": "Not found" if missing else "Partially resolved" if partial else "OK",
            "status": 2 if missing else 1 if partial else 0,
        }  # fmt: skip

    def answer(self, path: str, ask: dict[str, str], fault: Fault | None) -> Any:
        """What the API says to a question; bytes are a file, everything else is JSON."""
        word = path.removeprefix("/v0/")
        span = {"start": f"{FIRST}T00:00:00.000000000Z", "end": f"{LAST}T00:00:00.000000000Z"}
        answers = {
            "metadata.list_publishers": lambda: [
                {
                    "publisher_id": 1,
                    "dataset": "GLBX.MDP3",
                    "venue": "GLBX",
                    "description": "CME Globex MDP 3.0",
                },
                {
                    "publisher_id": 2,
                    "dataset": "XNAS.ITCH",
                    "venue": "XNAS",
                    "description": "Nasdaq TotalView",
                },
            ],
            "metadata.list_datasets": lambda: sorted(DATASETS),
            "metadata.list_schemas": lambda: sorted(RECORDS),
            "metadata.list_fields": lambda: [
                {"name": name, "type": str(kind)} for name, kind in RECORDS[ask["schema"]][0]._dtypes
            ],
            "metadata.list_unit_prices": lambda: [
                {"mode": mode, "unit_prices": {s: self.prices.get(s, self.price) for s in RECORDS}}
                for mode in ("historical", "historical-streaming", "live")
            ],
            "metadata.get_dataset_condition": lambda: self.conditions(
                date.fromisoformat(ask.get("start_date") or str(FIRST)),
                date.fromisoformat(ask.get("end_date") or str(LAST)),
            ),
            "metadata.get_dataset_range": lambda: span | {"schema": dict.fromkeys(RECORDS, span)},
            "metadata.get_record_count": lambda: self.estimate(ask)[0],
            "metadata.get_billable_size": lambda: self.estimate(ask)[1],
            "metadata.get_cost": lambda: self.estimate(ask)[2],
            "symbology.resolve": lambda: self.resolved(ask),
            "batch.submit_job": lambda: self.submit(ask, fault),
            "batch.list_jobs": lambda: self.listed(ask, fault),
            "batch.get_job_details": lambda: self._details(ask["job_id"]),
            "batch.list_files": lambda: self._listing(ask["job_id"], fault),
            "batch.download": lambda: self._zip(self.job(ask["job_id"])),
            "timeseries.get_range": lambda: self._range(ask),
        }
        if word in answers:
            return answers[word]()
        found = re.fullmatch(r"batch/download/TESTUSER/([^/]+)/([^/]+)", word)
        if found is None:
            raise Refused(404, f"No endpoint {path!r}.")
        return self._file(self.job(found[1]), found[2])

    def _details(self, name: str) -> dict[str, Any]:
        job = self.job(name)
        told = self.told(job)
        job.asked += 1
        return told

    def _listing(self, name: str, fault: Fault | None) -> list[dict[str, Any]]:
        job = self.job(name)
        if self.state(job) != "done":
            raise Refused(404, f"Job {name} is {self.state(job)}.", "batch_job_not_done")
        return self.listing(job, self.files(job), fault)

    def _file(self, job: Job, name: str) -> bytes:
        if self.state(job) != "done" or name not in self.files(job):
            raise Refused(404, f"Job {job.id} has no file {name!r}.", "batch_file_not_found")
        return self.files(job)[name]

    def _zip(self, job: Job) -> bytes:
        kept = io.BytesIO()
        with zipfile.ZipFile(kept, "w") as archive:
            for name, data in self.files(job).items():
                archive.writestr(name, data)
        return kept.getvalue()

    def _range(self, ask: Mapping[str, str]) -> bytes:
        data, _ = self.market.file(*self.understood(ask))
        return market.compress(data) if ask.get("compression") == "zstd" else data


# --- small words ---


def instant(text: str) -> int:
    """Nanoseconds of an ISO instant or of digits."""
    if text.isdigit():
        return int(text)
    found = re.fullmatch(
        r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:\.(\d+))?)?(Z|[+-]\d\d:?\d\d)?", text
    )
    if found is None:
        raise Refused(422, f"Not a time: {text!r}.", "data_invalid_time")
    zone = (found[4] or "Z").replace("Z", "+00:00")
    whole = datetime.fromisoformat(f"{found[1]}T{found[2] or '00:00'}{zone}")
    return int(whole.timestamp()) * 10**9 + int((found[3] or "0").ljust(9, "0")[:9])


def spoken(ns: int) -> str:
    """An instant as the vendor writes it."""
    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09d}Z"


def _spans(start: int, end: int, split: str) -> Iterator[tuple[int, int]]:
    """The pieces into which an order is cut."""
    while start < end:
        day = market.day_of(start)
        border = {
            "day": day + timedelta(days=1),
            "week": day + timedelta(days=7 - (day.weekday() + 1) % 7),
            "month": (day.replace(day=1) + timedelta(days=32)).replace(day=1),
            "year": date(day.year + 1, 1, 1),
        }.get(split, date.max)
        until = end if border == date.max else min(end, market.nanos(border))
        yield start, until
        start = until


def _named(first: int, last: int) -> str:
    a, b = market.day_of(first), market.day_of(last - 1)
    return f"{a:%Y%m%d}" if a == b else f"{a:%Y%m%d}-{b:%Y%m%d}"


# --- HTTP ---


def _handler(vendor: Vendor) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement
        wbufsize = -1

        def _any(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            ask = {k: v[-1] for k, v in parse_qs(query or body, keep_blank_values=True).items()}
            fault, self.status = vendor.due(path), 0
            vendor.asked += 1
            kind = fault.kind if fault else ""
            known = self.headers.get("Authorization") == f"Basic {_basic(vendor.key)}"
            try:
                if kind != "drop":
                    self._answer(path, ask, fault, known)
            except (OSError, ssl.SSLError):
                kind = kind or "gone"
            vendor.seen.append(
                Seen(self.command, path, self.status, kind, self.headers.get("Range") or "", known)
            )
            if kind in ("drop", "lose", "cut", "gone", "stall"):
                self._hang_up()

        def _answer(self, path: str, ask: dict[str, str], fault: Fault | None, known: bool) -> None:
            kind = fault.kind if fault else ""
            try:
                if kind in map(str, WORDS):
                    raise Refused(int(kind))
                if not known:
                    raise Refused(401)
                found = vendor.answer(path, ask, fault)
            except Refused as e:
                return self._refuse(e, fault)
            except (KeyError, ValueError) as e:
                return self._refuse(Refused(422, f"Not understood: {e!r}."), fault)
            if kind == "lose":
                return None
            if kind == "page":
                return self._send(
                    200, b"<html><body>Please log in to the network.</body></html>", fault, "text/html"
                )
            if kind == "redirect":
                return self._send(302, b"", None, location="http://127.0.0.2:9/elsewhere")
            if isinstance(found, bytes):
                return self._file(found, fault)
            return self._send(200, json.dumps(found).encode(), fault)

        def _refuse(self, refused: Refused, fault: Fault | None) -> None:
            detail = {"case": refused.case, "message": refused.message, "status_code": refused.status,
                      "docs": "https://databento.com/docs", "payload": {}}  # fmt: skip
            more = {"retry_after": fault.retry_after} if fault and fault.retry_after is not None else {}
            self._send(refused.status, json.dumps({"detail": detail}).encode(), None, **more)

        def _file(self, data: bytes, fault: Fault | None) -> None:
            kind, at = (fault.kind, fault.at) if fault else ("", 0)
            if kind == "changed":
                data = bytes([data[0] ^ 1]) + data[1:] if data else b"!"
            etag, start, status = f'"{hashlib.sha256(data).hexdigest()[:32]}"', 0, 200
            more: dict[str, str] = {"etag": etag, "accept_ranges": "bytes"}
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if asked and kind != "whole" and self.headers.get("If-Range", etag) == etag:
                start, stop = int(asked[1]), int(asked[2] or len(data) - 1)
                if start >= len(data):
                    return self._send(416, b"", None, content_range=f"bytes */{len(data)}")
                start += at if kind == "shift" else 0
                more["content_range"] = f"bytes {start}-{min(stop, len(data) - 1)}/{len(data)}"
                data, status = data[start : stop + 1], 206
            if self.command == "HEAD":
                data, fault = b"", None
            return self._send(status, data, fault, "application/octet-stream", **more)

        def _send(
            self, status: int, data: bytes, fault: Fault | None, kind: str = "application/json", **more: str
        ) -> None:
            what, at = (fault.kind, fault.at) if fault else ("", 0)
            if what == "flip" and data:
                place = min(at, len(data) - 1)
                data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            data = data[: max(0, len(data) - max(1, at))] if what == "short" else data
            data += b"\0" * max(1, at) if what == "long" else b""
            self.status = status
            self.send_response_only(status)
            for name, value in {"content_type": kind, "content_length": str(len(data)),
                                "request_id": f"req-{len(vendor.seen):06d}", **more}.items():  # fmt: skip
                self.send_header(name.replace("_", "-").title(), value)
            self.end_headers()
            if what in ("cut", "stall"):
                self.wfile.write(data[:at])
                self.wfile.flush()
                if what == "stall" and not vendor.stopping.wait(fault.seconds if fault else 0):
                    self.wfile.write(data[at:])
            else:
                self.wfile.write(data)

        def _hang_up(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *words: object) -> None:
            return

        do_GET = do_POST = do_HEAD = _any  # noqa: N815

    return Handler


def _basic(key: str) -> str:
    return base64.b64encode(f"{key}:".encode()).decode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


@contextlib.contextmanager
def serving(folder: Path, authority: Authority, *, port: int = 0, **how: Any) -> Iterator[Vendor]:
    """The stand-in, running."""
    vendor = Vendor(authority.ca, **how)
    server = _Server(("127.0.0.1", port), _handler(vendor))
    certificate = authority.issue("vendor")
    speaking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    speaking.load_cert_chain(certificate.path, certificate.key)
    server.socket = speaking.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    vendor.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield vendor
    finally:
        vendor.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Serve until somebody presses Ctrl-C."""
    words = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    words.add_argument("--port", type=int, default=8443, help="where it listens")
    words.add_argument(
        "--folder", type=Path, required=True, default=argparse.SUPPRESS, help="where the certificates go"
    )
    words.add_argument("--key", default=KEY, help="the key that is accepted")
    words.add_argument("--price", type=float, default=20.0, help="USD for 1e9 bytes")
    words.add_argument("--trades", type=int, default=400, help="trades of the busiest contract a day")
    asked = words.parse_args()
    made = Authority(asked.folder)
    sold = {"price": asked.price, "market": Market(asked.trades)}
    with serving(asked.folder, made, port=asked.port, key=asked.key, **sold) as vendor:
        print(f'vendor_url = "{vendor.url()}"')
        print(f"key: {asked.key}", "store it: researchkit secret put vendor", sep="\n", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    main()
