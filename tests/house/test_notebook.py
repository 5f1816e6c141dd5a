"""The author's tool: a page that runs keeps what repeats; a page that fails is left as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "environments" / "notebook.py"


def page(path: Path, *sources: str) -> Path:
    """Write a notebook with these code cells."""
    cells = [
        {
            "cell_type": "code",
            "execution_count": 3,
            "id": f"c{n}",
            "metadata": {},
            "outputs": [],
            "source": [s],
        }
        for n, s in enumerate(sources)
    ]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def tool(path: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run the tool on one page, its temporary files below `tmp_path`."""
    private = tmp_path / "t"
    private.mkdir()
    variables = os.environ | {"TMPDIR": str(private)}
    command = [sys.executable, str(TOOL), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert not [p.name for p in private.iterdir() if p.name.startswith(("nb-", "page-", "ipython-"))]
    return done


def test_a_page_that_runs_keeps_what_repeats(tmp_path: Path) -> None:
    noise = "import sys, warnings\nwarnings.warn('today')\nprint('kept')"
    path = page(tmp_path / "good.ipynb", noise, "import os\nos.environ['OMP_NUM_THREADS'], os.listdir()")
    done = tool(path, tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(path.read_text())["cells"]
    assert [(o["name"], o["text"]) for o in first["outputs"]] == [("stdout", ["kept\n"])]
    assert second["outputs"][0]["data"]["text/plain"] == ["('1', [])"]
    assert (first["execution_count"], first["metadata"]) == (None, {})
    assert "today" in done.stderr


def test_a_page_that_fails_is_left_as_it_was(tmp_path: Path) -> None:
    path = page(tmp_path / "bad.ipynb", "1 + 1", "1 / 0")
    before = path.read_bytes()
    done = tool(path, tmp_path)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["absent.ipynb", "text.md"])
def test_what_is_no_notebook_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.md").write_text("no notebook")
    done = tool(tmp_path / name, tmp_path)
    assert done.returncode == 2
    assert f"not a notebook: {tmp_path / name}" in done.stderr
