"""Kill put, append and checkpoint two hundred times, run them again, and write down what was lost.

    make study-kills                                                # 140 embedded, 60 with servers
    .venv/bin/python tests/studies/kills.py --limit 20 --no-site    # a part of it; the next command goes on

What was run is kept line by line in `--log`, so that an interrupted study goes on where it stopped. The page is
written by this command and by nobody else; it says how many of how many kills were made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "servers"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "attacks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

from killing_vault import Case, Warm, before_the_kill, killed, run_case
from results_page import results_page
from sited import Site

ROOT = Path(__file__).resolve().parents[2]

EMBEDDED, SITE, TOGETHER = 140, 60, 10  # kills; so many with servers share one chain
WHY = """A store of record is judged by the moment at which the power goes. So this study makes two hundred workspaces'
worth of work and kills each with `kill -9` once, anywhere: half of them after a random number of microseconds, half
at a random arrival at a random *durable site* (see [`security/durable`](../security/01_durable.ipynb)). With servers,
a third of the kills hit the PostgreSQL server instead, which is stopped at once and started again under a writer that
may notice a pause, or be refused one step in plain words and then take it again.

Every script is six to twelve steps of *put*, *append* (one line, or up to two hundred in one turn) and *checkpoint*
with a witness, drawn from the seed. Each step is written down once it was acknowledged. After the kill, and again
after the same script has run to its end, a new process opens everything and looks: whatever was acknowledged must be
there with its bytes, its one line, its version and its hash; whatever is listed must be whole; nothing may have a row
without a line or lie about without a row; the chain must hold, against every signed checkpoint and the witness.

`kill -9` stops a process and not the machine: what the kernel had taken is not lost, so this measures the order of
steps and not the honesty of a disk. That every step is pushed to the disk before it is acknowledged is tested
elsewhere."""


def main() -> int:
    """Run what is asked for and write the page; exit 1 when something was lost."""
    given = arguments()
    about = describe(given)
    done = known(given.log, about)
    with tempfile.TemporaryDirectory(prefix="study-") as place, Warm(servers=True) as warm:
        assert warm.pools == [], "children are forked from a process that has computed something"
        left = [k for k in plan(given) if k not in done][: given.limit]
        print(f"{len(plan(given))} kills, {len(done)} made before, {len(left)} to make", flush=True)
        given.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with given.log.open("a") as log:
                for number, record in enumerate(run(warm, left, Path(place), given.seed), 1):
                    done[record["tier"], record["case"]] = record
                    log.write(json.dumps(record | {"about": circumstances(about)}) + "\n")
                    log.flush()
                    what = "; ".join(record["wrong"]) or f"nothing lost of {record['acknowledged']}"
                    print(
                        f"{number}/{len(left)} {record['tier']:<8} {spelled(record):<26} {what}", flush=True
                    )
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on from here", flush=True)
    given.page.write_text(page(about, list(done.values()), len(plan(given))))
    wrong = sum(bool(r["wrong"]) for r in done.values())
    print(f"{len(done)} of {len(plan(given))} kills made, {wrong} lost something; {given.page} is written")
    return 1 if wrong else 0


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=int, default=None, help="make at most so many now")
    parser.add_argument("--seed", type=int, default=0, help="of scripts and instants")
    parser.add_argument("--no-site", action="store_true", help="embedded only: no servers are started")
    parser.add_argument(
        "--date", default=date.today().isoformat(), help="what the page says (default: today)"
    )
    parser.add_argument("--log", type=Path, default=ROOT / "build" / "kills.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "nbs" / "results" / "03_kills.ipynb")
    return parser.parse_args()


def plan(given: argparse.Namespace) -> list[tuple[str, int]]:
    """Every kill, by tier and number."""
    site = [] if given.no_site else [("site", n) for n in range(SITE)]
    return [("embedded", n) for n in range(EMBEDDED)] + site


def circumstances(about: dict[str, str]) -> dict[str, str]:
    """What must be the same for an earlier record to count."""
    return {k: v for k, v in about.items() if k != "date"}


def known(log: Path, about: dict[str, str]) -> dict[tuple[str, int], dict[str, Any]]:
    """What an earlier, interrupted command did under the same circumstances."""
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    return {(r["tier"], r["case"]): r for r in records if r["about"] == circumstances(about)}


def describe(given: argparse.Namespace) -> dict[str, str]:
    """Say under which circumstances the study ran."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((n.partition(":")[2].strip() for n in lines if "model name" in n), platform.machine())
    changed = ", with changes" if git("status", "--porcelain", "researchkit") else ""
    return {
        "seed": str(given.seed),
        "commit": git("rev-parse", "--short=12", "HEAD") + changed,
        "machine": f"{processor}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "servers": "PostgreSQL 15, radosgw with Object Lock, OpenBao, each on this machine, over TLS",
        "date": given.date,
    }


# --- the kills --------------------------------------------------------------------------------


def run(warm: Warm, left: list[tuple[str, int]], place: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Make the kills, one after the other; servers are started when the first one needs them."""
    template = place / "template"
    warm.must("prepare", root=template, witness=True)
    with contextlib.ExitStack() as servers:
        site: Site | None = None
        root = place / "nowhere"
        for tier, number in left:
            started = time.perf_counter()
            if tier == "embedded":
                record = run_case(warm, template, Case(number, seed), place)
            else:
                site = site or begin(servers, place)
                if number % TOGETHER == 0 or not root.exists():
                    root = place / f"site-{number}"
                    warm.must("prepare", root=root, settings=site.settings(), witness=True)
                    warm.must("work", root=root, acks=place / "first.acks", script=[["put", "0.dbn", 1, 100]])
                record = at_a_site(warm, site, root, Case(1000 + number, seed))
            yield record | {"tier": tier, "case": number, "seconds": round(time.perf_counter() - started, 2)}


def begin(servers: contextlib.ExitStack, place: Path) -> Site:
    """Start the servers."""
    import openbao
    import postgresql
    import radosgw
    from tls import Authority

    print("starting PostgreSQL, radosgw and OpenBao", flush=True)
    authority = Authority(place / "authority")
    running = []
    for module in (openbao, postgresql, radosgw):
        folder = place / module.__name__
        folder.mkdir()
        running.append(servers.enter_context(module.serving(folder, authority)))
    (place / "logins").mkdir()
    return Site(*running, place / "logins")


def at_a_site(warm: Warm, site: Site, root: Path, case: Case) -> dict[str, Any]:
    """Kill the writer, or the database under it, and say what came of it."""
    how = ("clock", "site", "server")[case.number % 3]
    root.with_suffix(".acks").unlink(missing_ok=True)
    script = case.script()
    if how == "server":
        return under_a_restart(warm, site, root, case, script)
    when = Case(case.number, case.seed, how).when(HITS, 1.5)
    died, wrong = killed(warm, root, script, **when)
    return {"how": how, "died": died, "wrong": wrong, "acknowledged": before_the_kill(root)} | when


HITS = {f"{name}:{instant}": 2 for name in ("entry", "part", "ingest") for instant in ("before", "after")}


def under_a_restart(warm: Warm, site: Site, root: Path, case: Case, script: list[Any]) -> dict[str, Any]:
    """Stop the database at once while a script runs, and start it again."""
    after = case.dice.uniform(0, 1.0)
    timer = threading.Timer(after, site.postgresql.control, ("restart", "-m", "immediate"))
    timer.start()
    acks = root.with_suffix(".acks")
    ran = warm.ask("work", root=root, acks=acks, script=script)
    timer.join()
    refused = ran["code"] != 0 and "researchkit.errors.WorkspaceError: " in ran["log"]
    wrong = [f"after the kill: {words}" for words in warm.must("inspect", root=root, acks=acks)]
    if refused:  # in plain words, and nothing of that step was done
        ran = warm.ask("work", root=root, acks=acks, script=script)
    wrong += [] if ran["code"] == 0 else [f"does not run again: {ran['log'][-500:]}"]
    wrong += [
        f"after the rerun: {words}" for words in warm.must("inspect", root=root, acks=acks, finished=True)
    ]
    said = {"after": int(after * 1e6), "died": refused, "acknowledged": acknowledged(root)}
    return {"how": "server", "wrong": wrong} | said


def acknowledged(root: Path) -> int:
    """Steps that were acknowledged, around the restart."""
    acks = root.with_suffix(".acks")
    return sum(line != "[]" for line in acks.read_text().splitlines()) if acks.exists() else 0


def spelled(record: dict[str, Any]) -> str:
    """When it was killed."""
    if record["how"] == "site":
        return str(record["at"][0])
    what = "database after" if record["how"] == "server" else "after"
    late = {"clock": " (too late)", "server": " (not noticed)"}[record["how"]]
    return f"{what} {record['after'] / 1000:.1f} ms" + ("" if record["died"] else late)


# --- the page ---------------------------------------------------------------------------------

HOWS = {
    "clock": "the writer, at a random microsecond",
    "site": "the writer, at a durable site",
    "server": "PostgreSQL",
}


def page(
    about: dict[str, str], records: list[dict[str, Any]], planned: int
) -> str:  # a notebook of prose only
    """Write the page: what was run, under which circumstances, and what came out."""
    wrong = [r for r in records if r["wrong"]]
    share = "all of them" if len(records) == planned else f"{len(records)}; the others were **not** made"
    result = "Nothing was lost." if not wrong else f"**After {len(wrong)} something was lost**, listed below."
    facts = "\n".join(f"| {name} | {words} |" for name, words in about.items())
    texts = [
        "# Killed two hundred times\n\n> What put, append and checkpoint leave behind when they are killed anywhere, measured.",
        WHY,
        f"## What was run\n\nThe study is {planned} kills, and this page reports {share}. {result}\n\n| | |\n|---|---|\n{facts}",
        f"## What came out\n\n{table(records)}",
    ]
    if wrong:
        lines = [f"- {r['tier']} {r['case']}, `{spelled(r)}`: {'; '.join(r['wrong'])}" for r in wrong]
        texts.append("## What was lost\n\n" + "\n".join(lines))
    texts.append(
        "This page is written by `make study-kills`; `make test` makes a few kills of the same kind."
    )
    return results_page(texts, "kls")


def table(records: list[dict[str, Any]]) -> str:
    """Kills by tier and manner."""
    head = ("tier", "killed", "kills", "stopped the work", "steps acknowledged by then", "acknowledged and lost",
            "half there", "chain broken", "did not run again", "seconds a kill")  # fmt: skip
    rows = []
    for tier in ("embedded", "site"):
        for how, words in HOWS.items():
            mine = [r for r in records if (r["tier"], r["how"]) == (tier, how)]
            if not mine:
                continue
            said = [w for r in mine for w in r["wrong"]]
            counts = [sum(key in w for w in said) for key in ("is lost", "half there", "chain:", "run again")]
            middle, steps = sum(r["died"] for r in mine), sum(r["acknowledged"] for r in mine)
            pace = f"{statistics.median(r['seconds'] for r in mine):.1f}"
            rows.append((tier, words, len(mine), middle, steps, *counts, pace))
    lines = [head, tuple("---" if i < 2 else "---:" for i in range(len(head))), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
