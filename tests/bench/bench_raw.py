"""Putting a file into the raw zone and reading it out, beside the least that must be done with its bytes.

The limit is one pass that hashes the plaintext (SHA-256 of hashlib) and encrypts it (AES-256-GCM of cryptography, a
mebibyte at a time), writes the result and waits for the disk; and back again. What the zone does besides: a second hash,
over the ciphertext, by which a copy is checked without a key; encryption that is bound to the name and to the place in
the file; the ledger, the registry, and policy. It has a thread for each hash, so both clocks are told: the processor's,
which counts the work, and the one on the wall, which people wait for.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from researchkit.settings import environment

os.environ.update(environment())

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from researchkit.context import Context, Principal
from researchkit.data.door import Door
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.data.store import FileStore
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

MIB = 1 << 20
SIZE = 256 * MIB
ROUNDS = 5
ME = Context(Principal("engineer3", ("data-engineer", "quant")))


def limit_in(source: Path, target: Path, key: AESGCM) -> str:
    """Hash, encrypt, write, wait for the disk."""
    digest = hashlib.sha256()
    with source.open("rb", buffering=0) as plain, target.open("wb", buffering=0) as sink:
        number = 0
        while piece := plain.read(MIB):
            digest.update(piece)
            sink.write(key.encrypt(number.to_bytes(12), piece, None))
            number += 1
        os.fsync(sink.fileno())
    return digest.hexdigest()


def limit_out(source: Path, key: AESGCM) -> str:
    """Read, decrypt, hash."""
    digest = hashlib.sha256()
    with source.open("rb", buffering=0) as cipher:
        number = 0
        while piece := cipher.read(MIB + 16):
            digest.update(key.decrypt(number.to_bytes(12), piece, None))
            number += 1
    return digest.hexdigest()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the processor and of the clock on the wall."""
    os.sync()
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def report(
    name: str, ours: list[tuple[float, float]], theirs: list[tuple[float, float]], versus: str
) -> None:
    """One JSON line as the page of results wants it, with the wall's clock besides."""
    line: dict[str, object] = {"bench": Path(sys.argv[0]).stem.removeprefix("bench_"), "case": name}
    line |= {"size": f"{SIZE // MIB} MiB", "versus": versus, "rounds": ROUNDS}
    for clock, (at, prefix) in enumerate((("cpu_ms", ""), ("wall_ms", "wall_"))):
        ratios = sorted(a[clock] / b[clock] for a, b in zip(ours, theirs, strict=True))
        line[at] = round(1e3 * statistics.median(a[clock] for a in ours), 1)
        line[f"versus_{at}"] = round(1e3 * statistics.median(b[clock] for b in theirs), 1)
        line[f"{prefix}ratio"] = float(f"{statistics.median(ratios):.3g}")
        line[f"{prefix}ratio_low"] = float(f"{ratios[0]:.3g}")
        line[f"{prefix}ratio_high"] = float(f"{ratios[-1]:.3g}")
    print(json.dumps(line), flush=True)


def main() -> None:
    """Put and get, in turns with the limit, each round with bytes of its own."""
    with tempfile.TemporaryDirectory() as place:
        root, key = Path(place), AESGCM(bytes(32))
        install(root / "policy")
        door = Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db"))
        parts = {
            "registry": Registry(f"sqlite:///{root}/catalog.db"),
            "keyring": Keyring(root / "keys"),
            "door": door,
        }
        zone = RawZone(root / "raw", store=FileStore(root / "raw", immutable=False), **parts)  # type: ignore[arg-type]
        given = {"key": "bench", "table": "DEMO/ohlcv-1d", "context": ME}
        zone.put(b"warm up", name="warm", **given)  # type: ignore[arg-type]
        found: dict[str, list[tuple[float, float]]] = {"put": [], "in": [], "get": [], "out": []}
        for number in range(ROUNDS):
            source, target = root / "source", root / "target"
            seed = hashlib.shake_128(number.to_bytes(4)).digest(MIB)
            with source.open("wb") as file:
                for place_in in range(SIZE // MIB):
                    file.write(place_in.to_bytes(8) + seed[8:])
            with source.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()

            def put(source: Path = source, name: str = str(number), sha256: str = sha256) -> None:
                zone.put(source, name=name, vendor_sha256=sha256, **given)  # type: ignore[arg-type]

            def get(sha256: str = sha256) -> None:
                with zone.open(sha256, context=ME) as stream:
                    while stream.read(MIB):
                        continue

            turn = [("put", put), ("in", lambda: limit_in(source, target, key))]  # noqa: B023
            for name, work in turn if number % 2 == 0 else turn[::-1]:
                found[name].append(timed(work))
            turn = [("get", get), ("out", lambda: limit_out(target, key))]  # noqa: B023
            for name, work in turn if number % 2 == 0 else turn[::-1]:
                found[name].append(timed(work))
            (root / "raw" / zone.record(sha256).path).unlink()
        limit = "SHA-256 of hashlib, AES-256-GCM of cryptography"
        report("put a file, with its manifest", found["put"], found["in"], f"{limit}, written and synced")
        report("read it out", found["get"], found["out"], f"{limit}, read")


if __name__ == "__main__":
    main()
