"""Measure two ways of doing the same work side by side, and say which took how much of the processor.

Seconds of this machine mean nothing elsewhere, so every case is a ratio against a peer or a limit that ran in the
same process, on the same data, taking turns. The processor's time is counted and not the clock's; the median over
the rounds is kept. Nothing is asserted: a bench is read by people.

    python tests/bench/bench_backtest.py              # one JSON line a case
    python tests/bench/measuring.py --date 2026-11-22 # all of them, and the page nbs/results/01_benchmarks.ipynb
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results_page import results_page

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "nbs" / "results" / "01_benchmarks.ipynb"
Work = Callable[[], object]


def cpu(
    work: Work,
    times: int,
) -> float:  # seconds of this process's processor time, a call
    """Time a piece of work, without the garbage collector's help."""
    gc.collect()
    gc.disable()
    begun = time.process_time()
    for _ in range(times):
        work()
    used = time.process_time() - begun
    gc.enable()
    return used / times


def often(work: Work, seconds: float = 0.1) -> int:
    """How many calls make a span that can be measured; the first call warms up and is not counted."""
    work()
    once = max(cpu(work, 1), 1e-7)
    return max(1, min(20_000, int(seconds / once)))


def case(
    name: str,
    *,
    ours: Work,  # the production entry point, with everything it returns
    peer: Work,  # the same result by other means, or the least that must be done
    versus: str,  # what the peer is, in words
    size: str,  # of the data
    rounds: int = 7,
) -> None:
    """Measure A and B in turns and print one JSON line."""
    counts = often(ours), often(peer)
    pairs = []
    for number in range(rounds):
        turn = ((ours, counts[0]), (peer, counts[1]))
        used = {id(work): cpu(work, times) for work, times in (turn if number % 2 == 0 else turn[::-1])}
        pairs.append((used[id(ours)], used[id(peer)]))
    ratios = sorted(a / b for a, b in pairs)
    line = {
        "bench": Path(sys.argv[0]).stem.removeprefix("bench_"),
        "case": name,
        "size": size,
        "cpu_ms": round(1e3 * statistics.median(a for a, _ in pairs), 4),
        "versus": versus,
        "versus_cpu_ms": round(1e3 * statistics.median(b for _, b in pairs), 4),
        "ratio": float(f"{statistics.median(ratios):.3g}"),
        "ratio_low": float(f"{ratios[0]:.3g}"),
        "ratio_high": float(f"{ratios[-1]:.3g}"),
        "rounds": rounds,
    }
    print(json.dumps(line, ensure_ascii=False), flush=True)


# --- the page ---


def machine() -> dict[str, Any]:
    """Where the numbers were taken."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = {line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(models)) or os.uname().machine,
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
    }


def commit() -> str:
    """What was measured: the commit, and whether the tree had changes that are in no commit."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", "researchkit", "tests/bench")
    return git("rev-parse", "HEAD")[:12] + (" with uncommitted changes" if changed else "")


def by_the_clock(line: dict[str, Any]) -> str:
    """The clock's times of a case that waits for disks or spreads over cores, else nothing."""
    if "wall_ratio" not in line:
        return ""
    return f"{line['wall_ms']:.3g} ms beside {line['versus_wall_ms']:.3g} ms, **{line['wall_ratio']:.3g}**"


def cells(lines: list[dict[str, Any]], date: str) -> list[str]:
    """The page in Markdown cells."""
    where = machine()
    told = f"Commit {commit()}, {date}; {where['processor']}, {where['cores']} cores, Python {where['python']}, kernels on one thread."
    rows = [
        f"| {x['bench']}: {x['case']} | {x['size']} | {x['cpu_ms']:.3g} ms | {x['versus']} | {x['versus_cpu_ms']:.3g} ms "
        f"| **{x['ratio']:.3g}** ({x['ratio_low']:.3g} to {x['ratio_high']:.3g}) | {by_the_clock(x)} |"
        for x in lines
    ]
    return [
        "# Benchmarks\n\n> What the production entry points cost beside a peer or a limit, measured in the same run.",
        "Each row is one JSON line of `make bench`. Both columns of time are the processor's, a call, the median of rounds "
        "in which the two took turns in one process; the ratio is ours to theirs, with its smallest and largest round. A "
        "ratio says how far the production entry point, with all its checks and all its outputs, lies from the least that "
        "must be done; the milliseconds hold for this machine only, and no test asserts either.",
        f"{told}\n\n| what | size | researchkit | beside | its time | ratio | by the clock |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(rows),
    ]


def write_page(lines: list[dict[str, Any]], date: str) -> None:
    """Write the results where the docs are built from."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(results_page(cells(lines, date), "ben"))


def main() -> int:
    """Run every bench, print its lines, and write the page when a date is given."""
    parser = argparse.ArgumentParser(description="Run every bench.")
    parser.add_argument("--date", help="the day, for the page of results; without it nothing is written")
    given = parser.parse_args()
    lines = []
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        done = subprocess.run([sys.executable, str(path)], stdout=subprocess.PIPE, text=True, check=True)
        print(done.stdout, end="", flush=True)
        lines += [json.loads(line) for line in done.stdout.splitlines()]
    if given.date:
        write_page(lines, given.date)
    return 0


if __name__ == "__main__":
    sys.exit(main())
