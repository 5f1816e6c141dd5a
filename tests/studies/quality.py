"""Survey real prices, and write down what is wrong with them.

    RESEARCHKIT_TEST_DATA=… make study-quality

The page is written by this command and by nobody else. The ticks go the whole way: raw zone, lake, survey of the
table. Of the demo's indices only the open years are looked at; the sealed ones stay sealed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from researchkit.settings import environment

os.environ.update(environment())
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results_page import results_page

import researchkit
from researchkit.data.survey import Report
from researchkit.security.policy import grant
from researchkit.workspace import destroy

SEALED = "2014-01-01"  # nobody looks at later prices outside the campaign
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "nbs" / "results" / "07_quality.ipynb"
WHY = """Each table was brought in as any other is, and surveyed with `ws.quality.check(TABLE)`, which is
`researchkit data quality TABLE` in a shell. A finding is a sentence about one symbol, with the rows that it concerns and
the first and last of them. Nothing is removed because of a finding. What breaks a hard rule was put into quarantine
before, and is counted beside it."""


def findings(report: Report) -> str:
    """A survey as a section of the page."""
    head = (
        f"## {report.subject}\n\n{report.rows:,} rows, calendar {report.calendar or 'none'}; checks made: "
        f"{', '.join(report.made)}. In quarantine: {report.quarantined['rows'].sum():,} rows."
    )
    if report.unmade:
        head += (
            "\n\nNot checked: "
            + "; ".join(f"{name} ({why})" for name, why in sorted(report.unmade.items()))
            + "."
        )
    if report.findings.is_empty():
        return head + "\n\nNothing was found."
    lines = ["| symbol | weight | finding | rows | first | last |", "|---|---|---|---|---|---|"]
    for row in report.findings.sort("symbol", "check", "first").iter_rows(named=True):
        ends = [f"{row[end]:%Y-%m-%d %H:%M:%S}" if row[end] is not None else "" for end in ("first", "last")]
        lines.append(
            f"| {row['symbol']} | {row['severity']} | {row['words']} | {row['rows']:,} | {ends[0]} | {ends[1]} |"
        )
    return head + "\n\n" + "\n".join(lines)


def ticks(work: Path, data: Path) -> list[Report]:
    """One day of real trades and quotes, through raw zone and lake."""
    ws = researchkit.open(work / "ticks")
    for action in ("ingest", "read"):
        grant(ws.root / "policy", "quant", action=action, resource="*")
    reports = []
    for file in sorted((data / "ticks").glob("*.dbn.zst")):
        done = ws.lake.ingest(ws.raw.put(file.read_bytes(), name=file.name, key="ticks").sha256)
        reports.append(ws.quality.check(done.table))
    return reports


def indices(work: Path) -> Report:
    """The demo's two indices, their open years."""
    command = [
        str(Path(sys.executable).with_name("researchkit")),
        "demo",
        "--workspace",
        str(work / "demo"),
        "--json",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return researchkit.open(work / "demo").quality.check("DEMO/ohlcv-1d", end=SEALED)


def main() -> int:
    """Survey, and write the page."""
    named = os.environ.get("RESEARCHKIT_TEST_DATA", "")
    if not (Path(named) / "ticks").is_dir():
        print("RESEARCHKIT_TEST_DATA must name the folder that holds ticks/")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        try:
            reports = [*ticks(work, Path(named)), indices(work)]
        finally:
            for place in ("ticks", "demo"):
                if (work / place).exists():
                    destroy(work / place, confirmed=place)
    title = f"# What is wrong with real prices\n\n> The findings of `make study-quality`, {date.today().isoformat()}."
    PAGE.write_text(results_page([title, WHY, *map(findings, reports)], "qlt"))
    for report in reports:
        print(f"{report.subject}: {report.rows:,} rows, {report.findings.height:,} findings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
