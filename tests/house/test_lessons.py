"""Every page runs against the exported package, and shows what it shows.

`nbdev-test` runs the export cells inside the notebook and never imports `researchkit`. A name that is
imported only in a lesson cell would pass there and break for users. Here the module takes the place of the
export cells, so it is the package that is tested. Tutorials, decisions and governance have no module and run
as they stand.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from execnb.shell import CaptureShell

ROOT = Path(__file__).parents[2]
PAGES = [p for p in sorted((ROOT / "nbs").rglob("*.ipynb")) if not p.name.startswith("_")]
MODULE = re.compile(r"^#\s*\|\s*default_exp\s+(\S+)", re.M)
SKIP = re.compile(r"^#\s*\|\s*(default_exp|export\w*|slow|server|eval:\s*false)\b", re.M)
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def code_of(page: Path) -> list[dict[str, Any]]:
    """The code cells of a page, their source in one string."""
    cells = json.loads(page.read_text())["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == "code"]


def module_of(cells: list[dict[str, Any]]) -> str | None:
    """The module a page exports, if it exports one."""
    found = MODULE.search("\n".join(cell["source"] for cell in cells))
    return f"researchkit.{found[1]}" if found else None


def shown(outputs: list[dict[str, Any]]) -> str | None:
    """The plain text of a cell's last value, without addresses."""
    for output in outputs:
        if output["output_type"] == "execute_result":
            text = "".join(output["data"].get("text/plain", "")).replace("PosixPath(", "Path(")
            return ADDRESS.sub("", text)
    return None


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CaptureShell]:
    """A fresh notebook shell in an empty folder; what a lesson does to the process is undone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    before = dict(os.environ)
    shell = CaptureShell(mpl_format=None)
    yield shell
    shell.close()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_lessons(page: Path, shell: CaptureShell) -> None:
    cells = code_of(page)
    if name := module_of(cells):
        module = importlib.import_module(name)
        shell.user_ns.update({k: v for k, v in vars(module).items() if not k.startswith("__")})
    for cell in cells:
        if SKIP.search(cell["source"]):
            continue
        outputs = shell.run(cell["source"])
        assert shell.exc is None, f"cell {cell['id']}: {shell.exc!r} in:\n{cell['source']}"
        assert shown(outputs) == shown(cell["outputs"]), (
            f"cell {cell['id']} no longer shows what the page shows"
        )


def test_a_name_that_only_the_lesson_imports_is_found_missing(shell: CaptureShell) -> None:
    errors = importlib.import_module("researchkit.errors")
    shell.user_ns.update(vars(errors))
    shell.run("import difflib_of_the_lesson" if not hasattr(errors, "difflib") else "pathlib.Path()")
    assert isinstance(shell.exc, NameError)
