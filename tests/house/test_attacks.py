"""The threat model lists every attack with its test and tier, and no attack is claimed that nobody tries."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "nbs" / "governance" / "02_threat_model.ipynb"


def load(path: Path) -> ModuleType:
    """A module of the tests, by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
    return module


ATTACKS = load(ROOT / "tests" / "attacks" / "attacks.py").ATTACKS


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    """The tests of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node


def marked(node: ast.FunctionDef) -> bool:
    """Whether a test says that it is an attack."""
    return any(ast.unparse(d).startswith("pytest.mark.attack(") for d in node.decorator_list)


def rows(page: str) -> list[list[str]]:
    """The rows of every table on a page, cell by cell, without marks of emphasis and links."""
    text = "\n".join("".join(c["source"]) for c in json.loads(page)["cells"] if c["cell_type"] == "markdown")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`*") for cell in line.strip("|").split("|")] for line in lines]


def listed(page: str) -> set[tuple[str, str, str]]:
    """Name, tier and test of every row that has the three; the first cell, a tier, and a test."""
    found = set()
    for cells in rows(page):
        tests = [c for c in cells if "::test_" in c]
        tiers = [c for c in cells if c in ("embedded", "site")]
        found |= {(cells[0], tier, test) for tier in tiers for test in tests}
    return found


def test_every_attack_has_a_test_that_exists() -> None:
    known: dict[str, set[str]] = {}
    for attack in ATTACKS:
        path, _, name = attack.test.partition("::")
        if path not in known:
            file = ROOT / path
            known[path] = {node.name for node in functions(file)} if file.is_file() else set()
        assert name in known[path], f"{attack.name}: there is no test {attack.test}"


def test_every_test_marked_as_an_attack_is_listed() -> None:
    listed = {attack.test for attack in ATTACKS}
    found = {
        f"{path.relative_to(ROOT)}::{node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in functions(path)
        if marked(node)
    }
    assert found - listed == set()


def test_the_table_is_sound() -> None:
    assert {attack.tier for attack in ATTACKS} == {"embedded", "site"}
    keys = [(attack.name, attack.tier) for attack in ATTACKS]
    assert len(set(keys)) == len(keys), "an attack stands once for each tier"
    assert all(attack.has and attack.must for attack in ATTACKS)


def test_the_threat_model_lists_every_attack_and_no_other() -> None:
    said, wanted = listed(PAGE.read_text()), {(a.name, a.tier, a.test) for a in ATTACKS}
    assert wanted - said == set(), "not in nbs/governance/02_threat_model"
    assert said - wanted == set(), "listed there, and in no row of tests/attacks/attacks.py"


def test_the_comparison_sees_what_is_missing() -> None:
    cell = {
        "cell_type": "markdown",
        "source": ["| **a name** | embedded | `tests/x.py::test_y` |\n", "| other | site | - |"],
    }
    assert listed(json.dumps({"cells": [cell]})) == {("a name", "embedded", "tests/x.py::test_y")}
