"""What every test may rely on: one numeric environment, honest skips, the way to files that lie outside."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from researchkit.settings import environment

pytest_plugins = ["pytester", "started"]  # the servers: tests/servers/started.py

if "numpy" in sys.modules and any(os.environ.get(k) != v for k, v in environment().items()):
    raise pytest.UsageError("numpy was loaded before the variables that make results repeatable were set")
os.environ.update(environment())
os.environ.setdefault("MPLBACKEND", "agg")
for name in [n for n in os.environ if n.startswith("RESEARCHKIT_") and n != "RESEARCHKIT_TEST_DATA"]:
    del os.environ[name]  # no test may open the workspace of whoever runs it

SKIPS = Path(__file__).parent / "skips.txt"


def allowed_skips(text: str) -> list[tuple[str, str]]:
    """Read `skips.txt`: one `test pattern | reason` a line, `*` the only wildcard, `#` begins a remark."""
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, bar, reason = (part.strip() for part in line.partition("|"))
        if not (pattern and bar and reason):
            raise pytest.UsageError(f"skips.txt line {number}: write `test pattern | reason`, got '{line}'")
        pairs.append((pattern, reason))
    return pairs


def is_listed(nodeid: str, words: str, allowed: list[tuple[str, str]]) -> bool:
    """Whether this test may be skipped, and for just these words."""
    return any(
        re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), nodeid) and reason in words
        for pattern, reason in allowed
    )


def words_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test was skipped or expected to fail, in its own words."""
    given = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return (getattr(report, "wasxfail", "") or given).removeprefix("Skipped: ")


def judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip that nobody wrote down into a failure."""
    if report.outcome != "skipped":
        return
    words = words_of(report)
    if not is_listed(report.nodeid, words, allowed_skips(SKIPS.read_text() if SKIPS.exists() else "")):
        report.outcome = "failed"
        report.longrepr = f"skipped, and tests/skips.txt does not list it: {report.nodeid} | {words}"
        report.__dict__.pop("wasxfail", None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Look at every test's report."""
    report = yield
    judge(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """Look at every file's report: a whole module can be skipped too."""
    report = yield
    judge(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was measured, what was skipped, and why, even when everything else is quiet."""
    done = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    measured = [str(value) for r in done for name, value in r.user_properties if name == "summary"]
    if measured:
        terminalreporter.section("measured")
    for line in measured:
        terminalreporter.line(line)
    skipped = [r for kind in ("skipped", "xfailed") for r in terminalreporter.stats.get(kind, [])]
    if skipped:
        terminalreporter.section("skipped, as tests/skips.txt allows")
    for report in skipped:
        terminalreporter.line(f"{report.nodeid}: {words_of(report)}")


@pytest.fixture(scope="session")
def test_data() -> Path | None:
    """The folder of files that lie outside the project, or None; a folder that is named must exist."""
    named = os.environ.get("RESEARCHKIT_TEST_DATA")
    if named and not Path(named).is_dir():
        pytest.fail(f"RESEARCHKIT_TEST_DATA must be a folder, got '{named}'")
    return Path(named) if named else None
