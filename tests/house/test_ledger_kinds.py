"""Every kind of line that the program writes on the ledger can be chosen on the dashboard's page."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import researchkit
from researchkit.dashboard.records import KINDS

WRITERS = {"once", "record", "append"}


def _kinds(path: Path) -> Iterator[str]:
    """The kinds that a module writes with a door or a ledger, where they stand in the call itself."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        whom, kind = ast.unparse(node.func.value).rpartition(".")[2].strip("_"), node.args[0]
        if node.func.attr in WRITERS and whom in {"door", "ledger"} and isinstance(kind, ast.Constant):
            yield str(kind.value)


def test_the_dashboard_offers_every_kind_of_line() -> None:
    root = Path(researchkit.__file__).parent
    written = {kind for path in root.rglob("*.py") for kind in _kinds(path)}
    assert len(written) > 15
    assert written <= set(KINDS), sorted(written - set(KINDS))
    assert list(KINDS) == sorted(KINDS)
