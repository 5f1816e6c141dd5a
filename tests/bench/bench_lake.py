"""Trades from the raw zone to committed files of the lake, beside databento's own `to_parquet` of the same file.

    python tests/bench/bench_lake.py             # one JSON line a case
    python tests/bench/bench_lake.py 1000000     # with so many trades instead of five million

Ours starts from an encrypted object and ends with a committed snapshot, the index and the ledger: it decrypts, checks the
hash, names every row, sorts by symbol, checks for bad rows, encodes, hashes the files. The peer reads the plain file and
writes one Parquet file in the order of the vendor, all of it held in memory. Peak memory is that of a process of its own
that does nothing else, the interpreter and its libraries included. A ratio of 0.2 is five times the peer's speed.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from researchkit.settings import environment

os.environ.update(environment())

import numpy as np

from researchkit.context import Context, Principal
from researchkit.data.door import Door
from researchkit.data.encode import encode
from researchkit.data.envelope import layout
from researchkit.data.lake import Lake
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

ME = Context(Principal("engineer3", ("data-engineer", "quant")))
ROWS, ROUNDS, SYMBOLS = 5_000_000, 3, 200
T0, DAY = 19_787 * 86_400 * 10**9, 86_400 * 10**9


def trades(rows: int, seed: int = 0) -> bytes:
    """A day of trades: few symbols have most of them, two of five come in bursts, prices walk in ticks."""
    rng = np.random.default_rng(seed)
    found = np.zeros(rows, layout("trades"))
    share = 1 / np.arange(1, SYMBOLS + 1)
    symbol = rng.choice(SYMBOLS, rows, p=share / share.sum())
    received = T0 + np.sort(rng.integers(0, DAY - 10**9, rows))
    sent = received - rng.integers(2_000, 400_000, rows)
    first = np.where(rng.random(rows) < 0.4, 0, np.arange(rows))
    found["ts_event"] = np.maximum(sent[np.maximum.accumulate(first)], T0)
    found["ts_recv"] = np.maximum(received, found["ts_event"])
    walk = np.cumsum(rng.choice([-1, 0, 0, 0, 0, 1], rows)) % 400
    found["price"] = ((100 + symbol % 50 * 10) * 4 + walk) * 250_000_000
    found["size"], found["instrument_id"] = np.minimum(rng.geometric(0.3, rows), 500), 1_000 + symbol
    found["side"], found["action"] = rng.choice([b"A", b"B", b"N"], rows, p=[0.48, 0.48, 0.04]), b"T"
    found["flags"], found["publisher_id"] = rng.choice([0, 128], rows, p=[0.1, 0.9]), 1
    found["ts_in_delta"] = rng.integers(10_000, 30_000, rows)
    found["sequence"] = np.arange(rows) * 3 + rng.integers(0, 3, rows)
    ids = {f"S{n:04}": 1_000 + n for n in range(SYMBOLS)}
    return encode(found, dataset="XNAS.TEST", schema="trades", ids=ids, span=(T0, T0 + DAY))


class Place:
    """A raw zone and a lake of its own."""

    def __init__(self, root: Path) -> None:
        install(root / "policy")
        self.registry = Registry(f"sqlite:///{root}/catalog.db")
        door = Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db"))
        keys = Keyring(root / "keys")
        self.raw = RawZone(root / "raw", registry=self.registry, keyring=keys, door=door, immutable=False)
        self.lake = Lake(root / "lake", registry=self.registry, raw=self.raw, door=door)

    def put(self, file: Path) -> str:
        """Keep a file in the raw zone."""
        return self.raw.put(file, name=file.name, key="bench", context=ME).sha256

    def bytes_a_row(self) -> float:
        """What lies in the lake."""
        [row] = self.registry.rows("SELECT SUM(bytes) AS b, SUM(rows) AS r FROM lake_files")
        return float(row["b"] / row["r"])


def ingest(file: Path) -> tuple[float, float]:
    """Processor's seconds of one ingest into an empty lake, and bytes a row."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        place = Place(Path(folder))
        sha256 = place.put(file)
        gc.collect()
        begun = time.process_time()
        place.lake.ingest(sha256, context=ME)
        return time.process_time() - begun, place.bytes_a_row()


def to_parquet(file: Path) -> tuple[float, float]:
    """The same of the vendor's client."""
    import databento

    with tempfile.TemporaryDirectory(dir=file.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
        begun = time.process_time()
        with contextlib.redirect_stderr(io.StringIO()):
            store = databento.DBNStore.from_file(file)
            store.to_parquet(Path(folder) / "trades.parquet")
        used = time.process_time() - begun
        return used, (Path(folder) / "trades.parquet").stat().st_size / len(store.to_ndarray())


def peak(file: Path, work: str) -> float:
    """MB that a process needs for it at most."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import bench_lake; from pathlib import Path\n"
        "getattr(bench_lake, sys.argv[2])(Path(sys.argv[3]))\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parent), work, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1e3


def told(name: str, file: Path, rows: int, words: str) -> None:
    """Measure in turns, and print one JSON line."""
    ingest(file), to_parquet(file)
    pairs = []
    for number in range(ROUNDS):
        turn = [ingest, to_parquet] if number % 2 == 0 else [to_parquet, ingest]
        found = {work.__name__: work(file) for work in turn}
        pairs.append((found["ingest"], found["to_parquet"]))
    ratios = sorted(a[0] / b[0] for a, b in pairs)
    seconds = [statistics.median(p[i][0] for p in pairs) for i in (0, 1)]
    held = [pairs[0][i][1] for i in (0, 1)]
    memory = [peak(file, work) for work in ("ingest", "to_parquet")]
    size = (
        f"{rows:,} {words}; {rows / seconds[0] / 1e6:.2f} M rows/CPU-s, {held[0]:.1f} bytes a row, peak {memory[0]:.0f} MB "
        f"(beside {rows / seconds[1] / 1e6:.2f}, {held[1]:.1f}, {memory[1]:.0f})"
    )
    line = {
        "bench": "lake", "case": name, "size": size, "cpu_ms": round(1e3 * seconds[0], 1),
        "versus": "databento to_parquet", "versus_cpu_ms": round(1e3 * seconds[1], 1),
        "ratio": float(f"{statistics.median(ratios):.3g}"), "ratio_low": float(f"{ratios[0]:.3g}"),
        "ratio_high": float(f"{ratios[-1]:.3g}"), "rounds": ROUNDS,
    }  # fmt: skip
    print(json.dumps(line, ensure_ascii=False), flush=True)


def main() -> None:
    """One day of five million trades; and three times as many for the memory alone."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "day.dbn.zst"
        file.write_bytes(trades(rows))
        told("DBN to committed lake files", file, rows, f"trades of {SYMBOLS} symbols")
        large = Path(folder) / "large.dbn.zst"
        large.write_bytes(trades(3 * rows))
        found = {words: peak(path, "ingest") for words, path in (("a", file), ("b", large))}
        line = {
            "bench": "lake", "case": "peak memory of an ingest, in MB instead of ms: three times the file",
            "size": f"{3 * rows:,} trades beside {rows:,}", "cpu_ms": round(found["b"], 1),
            "versus": "one file", "versus_cpu_ms": round(found["a"], 1), "ratio": round(found["b"] / found["a"], 3),
            "ratio_low": round(found["b"] / found["a"], 3), "ratio_high": round(found["b"] / found["a"], 3), "rounds": 1,
        }  # fmt: skip
        print(json.dumps(line, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
