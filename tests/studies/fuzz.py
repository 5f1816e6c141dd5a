"""Damage a million vendor files, read each, and write down what became of them.

    make study-fuzz                                                # a million, about twenty minutes on two cores
    .venv/bin/python tests/studies/fuzz.py --files 20000 --page /dev/stdout
    .venv/bin/python tests/studies/fuzz.py --only 123456           # one case again, with its traceback

Case number N is made from N alone, so that any one of them can be run again. The page is written by this command and
by nobody else.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from researchkit.settings import environment

os.environ.update(environment())

import databento_dbn
import numpy as np
import zstandard

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results_page import results_page

from researchkit.data import dbn
from researchkit.data.envelope import LAYOUTS, layout, open_records
from researchkit.data.recording import contents
from researchkit.data.schemas import FRAMES
from researchkit.data.typed import typed
from researchkit.errors import ResearchKitError

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("RESEARCHKIT_TEST_DATA", "/nonexistent"))
DAY = 86_400 * 10**9
SECONDS = 10  # a file of a few kilobytes that takes longer hangs
GOOD = ("refused", "the same rows", "unverifiable")
WHY = """A vendor's client gives the rows before a cut and says nothing. This study asks whether ours does, a million times:
it takes a small file of every schema in every version of the format, damages it, and reads it to its end. Three things
must never happen: an exception that is not one of the house's own, which names the file and the rule; a file that takes
for ever; and **silent loss**.

Silent loss has a rule, because not every damage can be seen. Whatever passes must be accounted for to the last byte:
the header and the records handed out, put one behind the other, are the content of the file. And whatever passes and is
called *verifiable*, because a SHA-256 from a manifest agreed or because the zstd frame carries a checksum, must be the
content of the file before the damage. An uncompressed file without a hash can be cut between two records, and a flipped
bit in a price looks like a price: such a file may pass, and is reported as *unverifiable*.

Every file is read as raw records and as typed ones, one in four from a stream instead of memory, and one in four also as
the frame that the lake would get, which has as many rows as the file has records or is refused."""


@dataclass(frozen=True)
class Original:
    """A whole file."""

    schema: str  # "trades", or "mixed"
    version: int  # 1, 2 or 3
    kind: str  # how it is stored: a key of STORED
    stored: bytes
    content: bytes  # before compression
    header: int  # bytes of the content that are header


# --- whole files ----------------------------------------------------------------------------------


def header(schema: str | None, version: int, symbols: int) -> bytes:
    """A header with mappings."""
    span = SimpleNamespace(start_date=date(1970, 1, 1), end_date=date(1970, 1, 9), symbol="")
    names = [
        SimpleNamespace(raw_symbol=f"S{n}", intervals=[SimpleNamespace(**vars(span) | {"symbol": str(n)})])
        for n in range(1, symbols + 1)
    ]
    return bytes(
        databento_dbn.Metadata(
            dataset="DEMO.FUZZ", start=0, end=8 * DAY, stype_in=databento_dbn.SType.RAW_SYMBOL if schema else None,
            stype_out=databento_dbn.SType.INSTRUMENT_ID, schema=databento_dbn.Schema.from_str(schema) if schema else None,
            symbols=[name.raw_symbol for name in names] if schema else [], mappings=names if schema else [], version=version,
        )
    )  # fmt: skip


def filled(kind: np.dtype[Any], byte: int, count: int, chance: random.Random) -> bytes:
    """Records with something in every field; of two, all equal."""
    records = np.zeros(count, kind)
    for name in () if count == 2 else kind.names or ():
        if kind[name].kind in "iu":
            top = 2 ** min(8 * kind[name].itemsize - 1, 59)
            records[name] = [chance.randrange(top) for _ in range(count)]
        else:
            records[name] = [bytes([chance.randrange(65, 91)]) for _ in range(count)]
    records["length"], records["rtype"] = kind.itemsize // 4, byte
    records["instrument_id"] = 1 + np.arange(count) % 3
    for name in {"ts_event", "ts_recv"} & set(kind.names or ()):
        records[name] = 10**9 * np.arange(count)
    return records.tobytes()


def packed(content: bytes, cut: int, kind: str) -> bytes:
    """Store a file in one of the ways."""
    press = zstandard.ZstdCompressor(level=3, write_checksum=kind != "zstd without a checksum").compress
    if kind == "plain":
        return content
    return press(content[:cut]) + press(content[cut:]) if kind == "two zstd frames" else press(content)


STORED = ("plain", "zstd", "zstd without a checksum", "two zstd frames")


@cache
def originals() -> tuple[Original, ...]:
    """Every schema, version and way to store it, short and long; and the vendor's own small files, where they are."""
    chance, found = random.Random(0), []
    for version in (1, 2, 3):
        for schema, (_, byte) in LAYOUTS.items():
            for count in (2, 40, 6000) if schema == "trades" else (2, 40):
                head = header(schema, version, 3)
                content = head + filled(layout(schema, version=version), byte, count, chance)
                found += [
                    Original(schema, version, k, packed(content, len(head) + 31, k), content, len(head))
                    for k in STORED
                ]
        head = header(None, version, 0)
        names = np.dtype(getattr(databento_dbn, f"v{version}").SymbolMappingMsg._dtypes)
        some = [filled(names, 0x16, 2, chance)]
        for schema in ("trades", "mbo", "ohlcv-1s", "definition", "statistics"):
            some.append(filled(layout(schema, version=version), LAYOUTS[schema][1], 5, chance))
        content = head + b"".join(some) + some[1]
        found += [Original("mixed", version, k, packed(content, 300, k), content, len(head)) for k in STORED]
    return (*found, *vendors())


def vendors() -> list[Original]:
    """The vendor's own files of up to 4 KiB."""
    found = []
    for path in sorted((REAL / "dbn").rglob("*.dbn*")):
        stored = path.read_bytes()
        if len(stored) > 4096 or ".frag" in path.name:
            continue
        content = (
            zstandard.ZstdDecompressor().decompressobj().decompress(stored) if stored[0] == 0x28 else stored
        )
        told, size = open_records(stored)[0], 8 + int.from_bytes(content[4:8], "little")
        if len(content) > size:
            kind = "zstd" if told.verifiable else "plain" if stored is content else "zstd without a checksum"
            found.append(Original(told.schema, told.version, kind, stored, content, size))
    return found


# --- damage ---------------------------------------------------------------------------------------


def flip(data: bytes, one: Original, chance: random.Random) -> bytes:
    """One bit, or up to eight."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(data: bytes, one: Original, chance: random.Random) -> bytes:
    """The end is missing."""
    return data[: chance.randrange(len(data))]


def extend(data: bytes, one: Original, chance: random.Random) -> bytes:
    """Something follows: zeros, noise, or the file's own end."""
    count = chance.choice((1, 2, 16, 56, 300))
    return data + chance.choice((bytes(count), chance.randbytes(count), data[-count:]))


def splice(data: bytes, one: Original, chance: random.Random) -> bytes:
    """A stretch of another file stands in this one."""
    other = chance.choice(originals()).stored
    a, b = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    c, d = sorted(chance.randrange(len(other) + 1) for _ in range(2))
    return data[:a] + other[c:d] + data[b:]


def head(data: bytes, one: Original, chance: random.Random) -> bytes:
    """The first bytes are others: lengths, versions, codes, counts."""
    changed = bytearray(data)
    reach = min(len(data), one.header if one.kind == "plain" else 24)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(reach)
        size = chance.choice((1, 2, 4))
        value = chance.choice(
            (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, chance.randrange(2**32))
        )
        changed[at : at + size] = (value % 256**size).to_bytes(size, "little")[: len(changed) - at]
    return bytes(changed)


def borders(data: bytes, one: Original, chance: random.Random) -> bytes:
    """Whole records or frames are missing, doubled or swapped."""
    if one.kind != "plain":
        frames = (
            [data] if one.kind != "two zstd frames" else [data[: (at := data.find(data[:4], 4))], data[at:]]
        )
        return b"".join(
            chance.choice((frames, frames))[chance.randrange(len(frames))] for _ in range(chance.randrange(4))
        )
    ends, at = [one.header], one.header
    while at < len(data) and data[at]:
        at += data[at] * 4
        ends.append(min(at, len(data)))
    a, b = sorted(chance.choice(ends) for _ in range(2))
    return chance.choice(
        (data[:a] + data[b:], data[:b] + data[a:], data[:a], data[:a] + data[b:] + data[a:b])
    )


def inner(data: bytes, one: Original, chance: random.Random) -> bytes:
    """The content is damaged and compressed again, checksum and all: the header and the records must hold alone."""
    harm = chance.choice((flip, cut, extend, head, borders))
    plain = Original(one.schema, one.version, "plain", one.content, one.content, one.header)
    return zstandard.ZstdCompressor(write_checksum=True).compress(harm(one.content, plain, chance))


HARM: tuple[Callable[[bytes, Original, random.Random], bytes], ...] = (
    flip,
    cut,
    extend,
    splice,
    head,
    borders,
    inner,
)


# --- one case -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    case: int
    schema: str
    version: int
    kind: str
    harm: str
    hashed: bool  # a manifest's hash was given
    found: str  # one of GOOD, or "silent loss", "crash", "hang"
    words: str = ""


class Hang(BaseException):
    """A file took too long."""


def late(number: int, frame: FrameType | None) -> None:
    raise Hang


def plain_of(data: bytes) -> bytes:
    """What the frames of a file hold, by zstd itself."""
    if data[:4] != b"\x28\xb5\x2f\xfd":
        return data
    found, left = b"", data
    while left:
        frame = zstandard.ZstdDecompressor().decompressobj()
        found += frame.decompress(left)
        left = frame.unused_data
    return found


def read(data: bytes, sha256: str | None, *, frame: bool, stream: bool = False) -> tuple[bytes, bool]:
    """Read a file to its end, as records, typed, and as a frame; what it held, and whether that is proved."""
    told, arrays = open_records(io.BytesIO(data) if stream else data, name="fuzzed", sha256=sha256)
    if told.schema == "mixed":
        heads = np.concatenate(list(arrays))
        _, kinds = contents(data, name="fuzzed", sha256=sha256)
        got = plain_of(data)
        rest = len(got) - 8 - int.from_bytes(got[4:8], "little")
        if len(heads) != sum(kinds.values()) or 4 * int(heads["length"].sum(dtype=np.int64)) != rest:
            raise AssertionError(f"{len(heads)} records of {kinds} are not {rest} bytes")
        for schema in set(kinds) & set(FRAMES) if frame else ():
            framed(data, sha256, schema, kinds[schema])
        return b"", told.verifiable
    records = list(arrays)
    rows = sum(typed(part, told).num_rows for part in records)
    if rows != sum(len(part) for part in records):
        raise AssertionError(f"{rows} typed rows")
    if frame and told.schema in FRAMES:
        framed(data, sha256, told.schema, rows)
    return b"".join(part.tobytes() for part in records), told.verifiable


def framed(data: bytes, sha256: str | None, schema: str, rows: int) -> None:
    """Read a file as the frame of its schema: all of its rows, or a refusal."""
    try:
        got = dbn.read(data, name="fuzzed", sha256=sha256, schema=schema).height
    except ResearchKitError as e:
        if "fuzzed" not in str(e):
            raise AssertionError(f"the file is not named: {e}") from e
        return
    if got != rows:
        raise AssertionError(f"{got} rows of {schema} in the frame, rule: {rows}")


def judged(
    one: Original, data: bytes, *, sha256: str | None, harm: str, frame: bool = False, stream: bool = False
) -> str:
    """Hold what was read against what was stored."""
    whole = plain_of(one.stored)
    try:
        rows, verifiable = read(data, sha256, frame=frame, stream=stream)
    except ResearchKitError as e:
        if "fuzzed" not in str(e):
            raise AssertionError(f"the file is not named: {e}") from e
        return "refused"
    got = plain_of(data)
    size = 8 + int.from_bytes(got[4:8], "little")
    if rows and got[size:] != rows:
        return "silent loss"
    if got == whole and (sha256 is None or data == one.stored):
        return "the same rows"
    if sha256 is not None or (verifiable and harm != "inner"):
        return "the same rows" if sha256 is None and whole_elsewhere(got) else "silent loss"
    return "unverifiable"


def whole_elsewhere(content: bytes) -> bool:
    """Whether the damage made another whole file, as a splice of all of one over all of another does."""
    return any(content == other.content for other in originals())


def run(case: int) -> Outcome:
    """Damage and read one file."""
    chance = random.Random(case)
    one, harm = chance.choice(originals()), chance.choice(HARM)
    data = harm(one.stored, one, chance)
    hashed = chance.random() < 0.2
    sha256 = hashlib.sha256(one.stored).hexdigest() if hashed else None
    words = ""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        found = judged(
            one, data, sha256=sha256, harm=harm.__name__, frame=case % 4 == 0, stream=case % 4 == 1
        )
    except Hang:
        found = "hang"
    except BaseException as e:
        found, words = "crash", "".join(traceback.format_exception(e))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return Outcome(case, one.schema, one.version, one.kind, harm.__name__, hashed, found, words)


# --- many -----------------------------------------------------------------------------------------


def work(first: int, step: int, until: int, report: Connection) -> None:
    """Run every step-th case; tell the parent now and then, so that it knows where a death struck."""
    signal.signal(signal.SIGALRM, late)
    tally: Counter[tuple[Any, ...]] = Counter()
    for number, case in enumerate(range(first, until, step)):
        outcome = run(case)
        tally[outcome.schema, outcome.version, outcome.kind, outcome.harm, outcome.hashed, outcome.found] += 1
        if outcome.found not in GOOD:
            report.send(("bad", outcome))
        if number % 200 == 0:
            report.send(("at", case))
    report.send(("done", (tally, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)))


def study(files: int, workers: int) -> tuple[Counter[tuple[Any, ...]], list[Outcome], int]:
    """Run all cases; the tally, what went wrong, the highest peak of memory in MiB."""
    signal.signal(signal.SIGALRM, late)
    tally: Counter[tuple[Any, ...]] = Counter()
    bad: list[Outcome] = []
    peak, began = 0, time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    ends = []
    for n in range(workers):
        mine, theirs = spawn.Pipe(duplex=False)
        process = spawn.Process(target=work, args=(n, workers, files, theirs), daemon=True)
        process.start()
        theirs.close()
        ends.append((mine, process, [n]))
    left = list(ends)
    while left:
        ready = multiprocessing.connection.wait([mine for mine, _, _ in left], timeout=60)
        if not ready:
            raise SystemExit(f"nothing for a minute, near {[at for _, _, at in left]}")
        for mine, process, at in [e for e in left if e[0] in ready]:
            try:
                what, value = mine.recv()
            except EOFError:
                process.join()
                words = f"the process died with {process.exitcode} within 200 cases after {at[0]}"
                bad.append(Outcome(at[0], "", 0, "", "", False, "crash", words))
                left = [e for e in left if e[0] is not mine]
                continue
            if what == "bad":
                bad.append(value)
            elif what == "at":
                at[0] = value
                if sys.stderr.isatty():
                    rate = (value + 1) / (time.monotonic() - began)
                    print(f"\r{value:,} of {files:,}, {rate:,.0f} a second ", end="", file=sys.stderr)
            else:
                tally += value[0]
                peak = max(peak, value[1])
                left = [e for e in left if e[0] is not mine]
    return tally, bad, peak


def main() -> int:
    """Run what is asked for and write the page; exit 1 when something was wrong."""
    parser = argparse.ArgumentParser(description="Read damaged files.")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, help="one case, with everything about it")
    parser.add_argument("--date", default=date.today().isoformat(), help="written on the page")
    parser.add_argument("--page", type=Path, default=ROOT / "nbs" / "results" / "04_fuzz.ipynb")
    given = parser.parse_args()
    if given.only is not None:
        signal.signal(signal.SIGALRM, late)
        outcome = run(given.only)
        print(outcome, outcome.words, sep="\n")
        return 0 if outcome.found in GOOD else 1
    began = time.monotonic()
    tally, bad, peak = study(given.files, given.workers)
    took = time.monotonic() - began
    for outcome in bad[:20]:
        print(outcome, outcome.words, sep="\n")
    print(
        json.dumps(
            {"files": sum(tally.values()), "seconds": round(took), "wrong": len(bad), "peak_mib": peak}
        )
    )
    given.page.write_text(page(tally, bad, peak, took, given))
    return 0 if not bad and sum(tally.values()) == given.files else 1


# --- the page -------------------------------------------------------------------------------------


def table(tally: Counter[tuple[Any, ...]], words: str, name: Callable[[tuple[Any, ...]], str]) -> str:
    """Outcomes by one property."""
    found: dict[str, Counter[str]] = {}
    for key, count in tally.items():
        found.setdefault(name(key), Counter())[key[5]] += count
    rows = "".join(
        f"| {what} | {sum(row.values()):,} | "
        + " | ".join(f"{row[o]:,}" for o in (*GOOD, "silent loss", "crash", "hang"))
        + " |\n"
        for what, row in sorted(found.items())
    )
    return (
        f"| {words} | files | refused | the same rows | unverifiable | silent loss | crash | hang |\n"
        f"|---|---:|---:|---:|---:|---:|---:|---:|\n{rows}"
    )


def stored_words(key: tuple[Any, ...]) -> str:
    """How a file was stored, and what could vouch for it."""
    kind = "compressed after the damage" if key[3] == "inner" else str(key[2])
    return f"{kind}, with a hash" if key[4] else kind


def page(
    tally: Counter[tuple[Any, ...]], bad: list[Outcome], peak: int, took: float, given: argparse.Namespace
) -> str:
    """A notebook of prose only."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((x.partition(":")[2].strip() for x in lines if "model name" in x), platform.machine())
    machine = f"{processor}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    changed = ", with changes" if git("status", "--porcelain", "researchkit") else ""
    own = (
        f"{len(vendors())} of the vendor's own files"
        if REAL.is_dir()
        else "none of the vendor's own files, which were not at hand"
    )
    total = sum(tally.values())
    texts = [
        f"# Damaged files\n\n> {total:,} vendor files, each damaged, each read to its end.",
        WHY,
        f"Commit {git('rev-parse', '--short=12', 'HEAD')}{changed}, {given.date}; {machine}. {total:,} files in "
        f"{took / 60:.0f} minutes, made from {len(originals())} whole ones: every schema in versions 1 to 3, stored in four "
        f"ways, and {own}. Wrong: **{len(bad)}**. The highest peak of a process was {peak} MiB.",
        "## By the way it was stored\n\nOne file in five is read with the hash of the undamaged file, as a manifest gives "
        "it; such a file passes only when the damage undid itself.\n\n"
        + table(tally, "stored", stored_words),
        "## By the damage\n\n*flip*: bits; *cut*: the end is missing; *extend*: something follows; *splice*: a stretch of "
        "another file; *head*: lengths, codes and counts at the beginning; *borders*: whole records or frames missing, "
        "doubled or swapped; *inner*: the content is damaged and compressed again with a valid checksum, so that only the "
        "header and the records themselves can tell. That file is whole as the checksum sees it, so its damage counts as "
        "unverifiable.\n\n" + table(tally, "damage", lambda k: str(k[3])),
        "## By schema and version\n\n" + table(tally, "schema", lambda k: f"{k[0]} v{k[1]}"),
    ]  # fmt: skip
    if bad:
        texts.append(
            "## What went wrong\n\n"
            + "\n".join(f"- case {o.case}: {o.found} {o.words[-300:]}" for o in bad[:50])
        )
    return results_page(texts, "fuz")


if __name__ == "__main__":
    raise SystemExit(main())
