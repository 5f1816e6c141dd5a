"""The first 25 worlds of every row of the study, run again: each test says what the page says it said."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def load() -> ModuleType:
    """The study's own file."""
    spec = importlib.util.spec_from_file_location(
        "inference_study", ROOT / "tests" / "studies" / "inference.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


study = load()


def page() -> dict[tuple[str, str], tuple[str, int]]:
    """What the page says: by test and world, the verdict and the count in the first 25."""
    cells = json.loads((ROOT / "nbs" / "results" / "09_inference.ipynb").read_text())["cells"]
    text = "".join("".join(cell["source"]) + "\n" for cell in cells)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {(r[0], r[1]): (r[4], int(r[5])) for r in rows if len(r) == 6 and r[5].isdigit()}


@pytest.mark.parametrize("name", study.BATCHES)
def test_the_first_worlds_say_what_the_page_says(name):
    said = page()
    for row, answers in study.BATCHES[name](0).items():
        verdict, count = said[row.what, row.world]
        assert verdict == row.expected
        assert int(answers.sum()) == count


def test_a_test_that_is_always_wrong_is_seen():
    row = study.Row("broken", "any", "holds")
    assert "**fails, expected: holds**" in study.line(row, study.np.ones(1000))
    assert "| holds |" in study.line(row, study.np.arange(1000) < 50)
