"""`run.log` says what it takes, names what was misspelt, and refuses another kind of value before anything is stored."""

from __future__ import annotations

import inspect
from typing import Any

import polars as pl
import pytest

from researchkit.experiments.records import GIVEN, record
from researchkit.experiments.runs import Run
from researchkit.workspace import Workspace
from researchkit.workspace import open as open_workspace


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace for runs."""
    return open_workspace(tmp_path_factory.mktemp("log") / "ws")


def test_help_lists_every_argument_and_what_it_takes() -> None:
    said = inspect.getdoc(Run.log) or ""
    shown = [n for n, p in inspect.signature(Run.log).parameters.items() if p.kind is p.KEYWORD_ONLY]
    assert sorted(shown) == sorted(GIVEN)
    assert sorted(GIVEN) == sorted(inspect.signature(record).parameters)
    for name, (words, _) in GIVEN.items():
        assert f"- {name}: {words}" in said


WRONG: dict[str, Any] = {
    "strategy": " ", "result": 1, "features": {"a": 1}, "view": "trend", "bars": pl.LazyFrame(), "labels": [1],
    "probabilities": 0.5, "signals": pl.Series([1.0]), "model": 0.3, "calibration": "well", "artifacts": {"a": "text"},
    "metrics": {"edge": "high"}, "continues": 7, "sweep": [],
}  # fmt: skip


@pytest.mark.parametrize("name", list(GIVEN))
def test_another_kind_of_value_is_refused_by_name(ws: Workspace, name: str) -> None:
    with (
        pytest.raises(
            ValueError, match=rf"^run\.log: {name} must be .*, got .*\({type(WRONG[name]).__name__}\)"
        ),
        ws.run("a slip", hypothesis="H-1") as run,
    ):
        run.log(**{name: WRONG[name]})
    assert ws.warehouse.count("artifacts") == ws.warehouse.count("results") == 0


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("resutl", "did you mean 'result'"),
        ("stategy", "did you mean 'strategy'"),
        ("qty", "it knows strategy, result"),
    ],
)
def test_an_unknown_name_gets_the_nearest(ws: Workspace, typed: str, hint: str) -> None:
    with (
        pytest.raises(TypeError, match=rf"^run\.log has no argument '{typed}': {hint}"),
        ws.run("a slip", hypothesis="H-1") as run,
    ):
        run.log(**{typed: 1})
    assert ws.warehouse.count("artifacts") == 0
