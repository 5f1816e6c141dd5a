"""Two thousand of the study's damaged files, and the study's own eyes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "studies"))

import fuzz


@pytest.fixture(autouse=True)
def watch():
    before = signal.signal(signal.SIGALRM, fuzz.late)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.attack("damaged files by the thousand", tier="embedded")
def test_two_thousand_damaged_files_are_refused_or_reported():
    found = [fuzz.run(case) for case in range(2_000)]
    assert [(o.case, o.found, o.words) for o in found if o.found not in fuzz.GOOD] == []
    assert {o.found for o in found} == set(fuzz.GOOD)
    assert {o.kind for o in found} == set(fuzz.STORED)
    assert {o.version for o in found} == {1, 2, 3}


def test_the_study_would_see_a_reader_that_loses_a_record(monkeypatch):
    """A cut file that passes as whole, rows that are dropped, an error that is not ours, a file without end."""
    one = next(o for o in fuzz.originals() if (o.schema, o.kind) == ("trades", "zstd"))
    size = len(one.content) - one.header
    given = {"sha256": None, "harm": "cut"}
    shorter = fuzz.packed(one.content[: -size // 2], 0, "zstd")
    monkeypatch.setattr(fuzz, "read", lambda *_, **__: (one.content[one.header : -size // 2], True))
    assert fuzz.judged(one, shorter, **given) == "silent loss"
    assert fuzz.judged(one, one.stored, **given) == "silent loss"
    monkeypatch.setattr(fuzz, "read", lambda *_, **__: 1 / 0)
    assert fuzz.run(3).found == "crash"
    monkeypatch.setattr(fuzz, "SECONDS", 0.02)
    monkeypatch.setattr(fuzz, "read", lambda *_, **__: signal.pause())
    assert fuzz.run(3).found == "hang"
