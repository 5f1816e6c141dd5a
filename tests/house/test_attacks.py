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


def rows(page: str) -> list[tuple[str, str, str]]:
    """Of every row that names an attack's test: the name in its first cell, its tier, and the row itself."""
    text = "\n".join("".join(c["source"]) for c in json.loads(page)["cells"] if c["cell_type"] == "markdown")
    found = []
    for line in text.splitlines():
        cells = [cell.strip().strip("`*") for cell in line.strip().strip("|").split("|")]
        tiers = [cell for cell in cells if cell in ("embedded", "site")]
        if line.startswith("|") and tiers and "test_" in line:
            found.append((cells[0], tiers[0], line))
    return found


def missing(page: str) -> list[str]:
    """Attacks without a row that names their tier, the file of their test, and the test."""
    there = rows(page)
    return [
        f"{attack.name} ({attack.tier}): {attack.test}"
        for attack in ATTACKS
        if not any(
            (name, tier) == (attack.name, attack.tier)
            and all(part in line for part in attack.test.split("::"))
            for name, tier, line in there
        )
    ]


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
    page = PAGE.read_text()
    assert missing(page) == [], "not in nbs/governance/02_threat_model"
    known = {(attack.name, attack.tier) for attack in ATTACKS}
    assert [row[:2] for row in rows(page) if row[:2] not in known] == [], "listed there, and never tried"


def test_the_comparison_sees_what_is_missing() -> None:
    first, *others = ATTACKS
    file, _, test = first.test.partition("::")
    line = f"| **{first.name}** | {first.tier} | [{file}](../../{file}) `{test}` |\n"
    page = json.dumps({"cells": [{"cell_type": "markdown", "source": ["| attack | tier |\n", line]}]})
    assert len(missing(page)) == len(others)
    assert len(missing(page.replace(test, "test_of_something_else"))) == len(ATTACKS)
    assert rows(page.replace(first.name, "magic"))[0][:2] == ("magic", first.tier)
