"""Kill the demo at every occurrence of every durable call site, run it again, and write down what was left.

    make study-demo-kills                                    # all of the real demo: hours
    .venv/bin/python tests/studies/demo_kills.py --stream two-years --stride 5 --limit 40

What was run is kept line by line in `--log`, so that an interrupted study goes on where it stopped. The page is
written by this command and by nobody else; it says how many of how many instants were run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from queue import SimpleQueue
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

from killing import Reference, Warm, killed, remove, untouched
from results_page import results_page

ROOT = Path(__file__).resolve().parents[2]

STREAMS = {
    "demo": "the demo's own two indices, 1999 to 2018",
    "two-years": "two random walks on 504 sessions, made from the seed",
}
WHY = """What was begun when the power went is the commonest way to a record that lies: a result without its file, a
file without its result, a delivery that is there twice. So every place in the platform that makes something durable
is a *durable call site*, listed in [`security/durable`](../security/01_durable.ipynb), with an instant just before
it becomes visible and one just after.

This study runs the demo once untouched and counts how often each instant is reached. Then it takes the instants one
by one: a new workspace, the demo, `kill -9` exactly there, and the demo again, to its end. Afterwards equity,
probabilities and every other frame must have the hashes of the untouched run; pins, campaign and the words of the
verdicts must be the same; nothing may have been delivered, ingested, pinned, registered or decided twice; no
temporary name and no unknown file may lie about; the trial that died must be counted as aborted, on the ledger and
in MLflow too; and every link from the verdict to the vendor's bytes must hold."""


def main() -> int:
    """Run what is asked for and write the page; exit 1 when a kill left something else."""
    given = arguments()
    with Warm() as one, Warm() as two, tempfile.TemporaryDirectory(prefix="study-") as place:
        study = Study(given, Path(place), describe(given))
        source = study.source(one)
        reference = untouched(one, Path(place) / "untouched", source, kernels=given.kernels)
        remove(Path(place) / "untouched")
        cases = [f"{at}:{n}" for at, hits in reference.hits.items() for n in range(1, hits + 1)]
        done = study.known()
        order = sorted(cases[:: given.stride], key=lambda case: hashlib.sha256(case.encode()).digest())
        left = [case for case in order if case not in done][
            : given.limit
        ]  # mixed, so that a part is a sample
        print(
            f"{len(cases)} instants, {len(done)} run before, {len(left)} to run, {reference.seconds:.0f} s a demo"
        )
        try:
            for number, record in enumerate(study.run([one, two], left, source, reference), 1):
                done[record["at"]] = record
                state = "; ".join(record["wrong"]) or "same"
                print(
                    f"{number}/{len(left)} {record['at']:<24} {record['seconds']:5.1f} s  {state}", flush=True
                )
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on from here", flush=True)
    given.page.write_text(page(study.about, reference.hits, done))
    wrong = [r for r in done.values() if r["wrong"]]
    print(
        f"{len(done)} of {len(cases)} instants run, {len(wrong)} left something else; {given.page} is written"
    )
    return 1 if wrong else 0


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stream", choices=STREAMS, default="demo", help="what the demo runs on")
    parser.add_argument("--kernels", action="store_true", help="a kernel a job, as people run it; slower")
    parser.add_argument("--stride", type=int, default=1, help="take every n-th instant only")
    parser.add_argument("--limit", type=int, default=None, help="run at most so many now")
    parser.add_argument("--seed", type=int, default=0, help="of the random walks")
    parser.add_argument(
        "--date", default=date.today().isoformat(), help="what the page says (default: today)"
    )
    parser.add_argument("--log", type=Path, default=ROOT / "build" / "demo_kills.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "nbs" / "governance" / "03_demo_kills.ipynb")
    return parser.parse_args()


def describe(given: argparse.Namespace) -> dict[str, str]:
    """Say under which circumstances the study ran."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    processor = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )  # fmt: skip
    changed = ", with changes" if git("status", "--porcelain", "researchkit", "papermill_jobs") else ""
    return {
        "stream": STREAMS[given.stream],
        "seed": "none is needed" if given.stream == "demo" else str(given.seed),
        "jobs run in": "a kernel each" if given.kernels else "the demo's own process",
        "commit": git("rev-parse", "--short=12", "HEAD") + changed,
        "machine": f"{processor}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "date": given.date,
    }


@dataclass(frozen=True)
class Study:
    """One study: where it works and what it has done."""

    given: argparse.Namespace
    place: Path  # for workspaces, gone afterwards
    about: dict[str, str]

    def source(self, warm: Warm) -> Path | None:
        """The file the demo runs on; None means its own indices."""
        if self.given.stream == "demo":
            return None
        path = self.place / "two-years.dbn.zst"
        warm.ask("stream", path=str(path), seed=self.given.seed)
        return path

    def known(self) -> dict[str, dict[str, Any]]:
        """What an earlier, interrupted command ran under the same circumstances."""
        lines = self.given.log.read_text().splitlines() if self.given.log.is_file() else []
        same = {k: v for k, v in self.about.items() if k != "date"}
        return {r["at"]: r for r in map(json.loads, lines) if r["about"] == same}

    def run(
        self, servers: list[Warm], cases: list[str], source: Path | None, reference: Reference
    ) -> Iterator[dict[str, Any]]:
        """Run cases, as many at a time as there are servers, and log each."""
        free: SimpleQueue[Warm] = SimpleQueue()
        for server in servers:
            free.put(server)

        def case(at: str) -> dict[str, Any]:
            server, started = free.get(), time.perf_counter()
            try:
                root = self.place / at.replace(":", "-")
                wrong = killed(server, root, source, at=at, reference=reference, kernels=self.given.kernels)
                return {"at": at, "wrong": wrong, "seconds": round(time.perf_counter() - started, 1)}
            finally:
                free.put(server)

        self.given.log.parent.mkdir(parents=True, exist_ok=True)
        same = {k: v for k, v in self.about.items() if k != "date"}
        with ThreadPoolExecutor(len(servers)) as pool, self.given.log.open("a") as log:
            try:
                for done in as_completed([pool.submit(case, at) for at in cases]):
                    log.write(json.dumps(done.result() | {"about": same}) + "\n")
                    log.flush()
                    yield done.result()
            finally:  # after an interruption: finish what has begun, begin nothing more
                pool.shutdown(cancel_futures=True)


# --- the page ---------------------------------------------------------------------------------


def page(
    about: dict[str, str],
    hits: dict[str, int],  # "entry:before" → how often an untouched run reaches it
    done: dict[str, dict[str, Any]],  # by "entry:before:17"
) -> str:  # a notebook of prose only
    """Write the page: what was run, under which circumstances, and what came out."""
    wrong = {at: r["wrong"] for at, r in sorted(done.items()) if r["wrong"]}
    total, whole = sum(hits.values()), len(done) == sum(hits.values())
    share = "every one of them" if whole else f"a sample of {len(done)}; the others were **not** run"
    result = (
        "Every one left what an untouched run leaves."
        if not wrong
        else f"**{len(wrong)} left something else**, listed below."
    )
    circumstances = "\n".join(f"| {name} | {words} |" for name, words in about.items())
    rows = []
    for at, reached in hits.items():
        mine = [r for name, r in done.items() if name.rpartition(":")[0] == at]
        same = sum(not r["wrong"] for r in mine)
        rows.append("| {} | {} | {} | {} | {} |".format(*at.split(":"), reached, len(mine), same))
    texts = [
        "# Killed at every instant\n\n> What the demo leaves behind when it is killed and run again, measured.",
        WHY,
        f"## What was run\n\nThe demo reaches {total} such instants on this stream, and this page reports {share}. "
        f"{result}\n\n| | |\n|---|---|\n{circumstances}",
        "## What came out\n\n| call site | instant | reached | killed there | same afterwards |\n|---|---|---:|---:|---:|\n"
        + "\n".join(rows),
    ]
    if wrong:
        texts.append(
            "## What was left\n\n" + "\n".join(f"- `{at}`: {'; '.join(w)}" for at, w in wrong.items())
        )
    texts.append("This page is written by `make study-demo-kills`; `make test` kills once at each call site.")
    return results_page(texts, "kil")


if __name__ == "__main__":
    sys.exit(main())
