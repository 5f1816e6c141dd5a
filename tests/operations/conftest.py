"""A vendor's file of two years, a workspace in which the demo has finished, and the command line as a person has it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from commandline import PROGRAM, Command, variables
from killing import remove, write_stream


@pytest.fixture(scope="session")
def two_years(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vendor's file: two symbols on 504 sessions."""
    path = tmp_path_factory.mktemp("vendor") / "two-years.dbn.zst"
    write_stream(path)
    return path


@pytest.fixture(scope="session")
def finished(two_years: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace in which the demo has finished; tests work on copies."""
    import researchkit
    from researchkit.jobs.runner import execute_here
    from researchkit.operations.demo import demo

    root = tmp_path_factory.mktemp("finished") / "workspace"
    demo(researchkit.open(root), source=two_years, quiet=True, executing=execute_here)
    yield root
    remove(root)


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished workspace; immutable flags do not travel, so it may be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "workspace"))


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Type `researchkit …` in a folder that holds nothing; `before` are words in front of it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def typed(*words: object, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        line = [*before, str(PROGRAM), *map(str, words)]
        return subprocess.run(
            line, capture_output=True, text=True, check=False, cwd=elsewhere, env=variables(), timeout=300
        )

    return typed
