"""Put an object of five gibibytes into the raw zone, read it, check it, and write down what that took.

    make study-large-object                                        # 5 GiB in a folder, 512 MiB in a bucket: minutes
    .venv/bin/python tests/studies/large_object.py --gib 1 --page /dev/stdout

Each step runs in a process of its own, so that its peak of memory is its own. The page is written by this command and
by nobody else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from researchkit.settings import environment

os.environ.update(environment())

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))  # what the steps import
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "servers"))

from results_page import results_page

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
MIB = 1 << 20
STEPS = {
    "put": "put, with the vendor's manifest: read once",
    "put again": "put without a manifest: read twice",
    "open": "read as a stream to its end",
    "verify": "check both hashes",
}
WHY = """A vendor's file of five gigabytes must pass through a machine that has better things to do with its memory. So
nothing in the raw zone holds an object: it streams, a mebibyte at a time. This page says what was measured: the peak of
resident memory of the whole process (`VmHWM`), how much of that the program had taken before the step began, with its
libraries loaded and a small object put, and what the step added."""


def main() -> int:
    """Run the steps and write the page."""
    parser = argparse.ArgumentParser(description="Measure a large object.")
    parser.add_argument("--gib", type=float, default=5.0, help="size of the object in the folder")
    parser.add_argument(
        "--bucket-mib", type=int, default=512, help="size of the object in the bucket; 0: no bucket"
    )
    parser.add_argument("--date", default=date.today().isoformat(), help="written on the page")
    parser.add_argument("--page", type=Path, default=ROOT / "nbs" / "results" / "02_large_object.ipynb")
    parser.add_argument("--work", type=Path, help="a folder on the disk to measure; default: the system's")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        step(json.loads(given.step))
        return 0
    rows = folder_rows(given) + (bucket_rows(given) if given.bucket_mib else [])
    for row in rows:
        print(json.dumps(row))
    given.page.write_text(page(rows, given.date))
    return 0 if all(row["whole"] for row in rows) else 1


# --- one step, in a process of its own ------------------------------------------------------------


def peak() -> float:
    """The peak of this process's resident memory, MiB."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def step(task: dict[str, Any]) -> None:
    """Do one thing to the object and print what it took."""
    from raw_kills import ME, TABLE, FileStore, S3Store, Secret, zone

    from researchkit.settings import address

    root, sha256 = Path(task["root"]), task["sha256"]
    store: Any = FileStore(root / "raw", immutable=False)
    if "bucket" in task:
        keys = {name: Secret(task[name]) for name in ("access_key", "secret_key")}
        url = f"s3://{task['bucket']}/zone?endpoint={task['endpoint']}&secret=bucket"
        store = S3Store(address("raw_url", url), lambda: keys, ca=Path(task["ca"]), retention_days=1)
    raw = zone(root, store).raw
    given = {"key": "demo", "table": TABLE, "context": ME}
    small = raw.put(b"warm up", name="warm", **given)
    raw.get(small.sha256, context=ME)

    def read() -> bool:
        with raw.open(sha256, context=ME) as stream:
            return sum(len(piece) for piece in iter(lambda: stream.read(MIB), b"")) == task["bytes"]

    work: dict[str, Callable[[], bool]] = {
        "put": lambda: (
            raw.put(task["source"], name="big", vendor_sha256=sha256, **given).bytes == task["bytes"]
        ),
        "put again": lambda: raw.put(Path(task["source"]), name="big", **given).sha256 == sha256,
        "open": read,
        "verify": lambda: raw.verify(sha256)[0].ok,
    }
    task["source"] = Path(task["source"])
    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    whole = work[task["step"]]()
    took = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps({"whole": whole, "program": before, "peak": peak(), **took}))


def run(task: dict[str, Any], name: str) -> dict[str, Any]:
    """Run one step apart."""
    command = [sys.executable, str(HERE), "--step", json.dumps(task | {"step": name})]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {"store": task["kind"], "step": name, "bytes": task["bytes"], **json.loads(done.stdout)}


def source(path: Path, size: int) -> str:
    """Write bytes that no disk can shrink, all from the number of their place; says their SHA-256."""
    whole, one = hashlib.sha256(), hashlib.shake_128(b"researchkit").digest(MIB)
    with path.open("wb") as file:
        for number in range(size // MIB):
            piece = number.to_bytes(8) + one[number % MIB :] + one[: number % MIB]
            piece = piece[:MIB]
            file.write(piece)
            whole.update(piece)
        file.flush()
        os.fsync(file.fileno())
    return whole.hexdigest()


def folder_rows(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The large object, in a folder."""
    with tempfile.TemporaryDirectory(dir=given.work) as place:
        size = int(given.gib * 1024) * MIB
        task = {"kind": "folder", "root": f"{place}/one", "source": f"{place}/source", "bytes": size}
        task["sha256"] = source(Path(place) / "source", size)
        first = [run(task, name) for name in ("put", "open", "verify")]
        shutil.rmtree(task["root"])
        return [*first, run(task | {"root": f"{place}/two"}, "put again")]


def bucket_rows(given: argparse.Namespace) -> list[dict[str, Any]]:
    """A smaller one in a bucket, whose server keeps everything in memory."""
    from radosgw import serving
    from tls import Authority

    with (
        tempfile.TemporaryDirectory() as place,
        serving(Path(place), Authority(Path(place) / "ca")) as server,
    ):
        size = given.bucket_mib * MIB
        task = {"kind": "bucket", "root": f"{place}/one", "source": f"{place}/source", "bytes": size}
        task |= {"access_key": server.access_key, "secret_key": server.secret_key, "ca": str(server.ca)}
        task |= {"endpoint": server.endpoint, "bucket": server.bucket()}
        task["sha256"] = source(Path(place) / "source", size)
        return [run(task, name) for name in ("put", "open", "verify")]


# --- the page -------------------------------------------------------------------------------------


def page(rows: list[dict[str, Any]], day: str) -> str:
    """A notebook of prose only."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((x.partition(":")[2].strip() for x in lines if "model name" in x), platform.machine())
    changed = ", with changes" if git("status", "--porcelain", "researchkit") else ""
    machine = f"{processor}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    told = [
        "| {} | {} | {:,} MiB | {:.1f} s | {:.1f} s | {:.0f} MiB/s | {:.0f} MiB | {:.0f} MiB | **{:.0f} MiB** |".format(
            row["store"], STEPS[row["step"]], row["bytes"] // MIB, row["seconds"], row["cpu"],
            row["bytes"] / MIB / row["seconds"], row["peak"], row["program"], row["peak"] - row["program"],
        )
        for row in rows
    ]  # fmt: skip
    most = max(row["peak"] - row["program"] for row in rows)
    worst = max(row["peak"] for row in rows)
    texts = [
        "# A large object\n\n> What five gibibytes cost the raw zone in memory and time, measured.",
        WHY,
        f"Commit {git('rev-parse', '--short=12', 'HEAD')}{changed}, {day}; {machine}. The bytes are made from their "
        "place, so no seed is needed; every step ended with the right hash. "
        f"The most that any step added was {most:.0f} MiB, the highest peak of a whole process {worst:.0f} MiB.\n\n"
        "| where | step | object | wall | processor | speed | peak | program | added |\n|---|---|---:|---:|---:|---:|---:|---:|---:|\n"
        + "\n".join(told),
        "This page is written by `make study-large-object`; `make test` passes 200 MiB through and looks at the same "
        "column. The bucket's server keeps its objects in memory on the same machine, so its speed is not a disk's.",
    ]
    return results_page(texts, "lar")


if __name__ == "__main__":
    sys.exit(main())
