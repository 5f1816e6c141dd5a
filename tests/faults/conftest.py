"""What the proofs about kills and repeats share: the helper beside them, a warm server, one untouched run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from killing import Reference, Warm, remove, untouched


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """A server that has imported everything and computed nothing."""
    with Warm() as server:
        yield server


@pytest.fixture(scope="session")
def two_years(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vendor's file: two symbols on 504 sessions, which anybody can make again from its seed."""
    path = tmp_path_factory.mktemp("vendor") / "two-years.dbn.zst"
    assert warm.ask("stream", path=str(path))["code"] == 0
    return path


@pytest.fixture(scope="session")
def reference(warm: Warm, two_years: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """What an untouched run leaves."""
    root = tmp_path_factory.mktemp("untouched") / "workspace"
    yield untouched(warm, root, two_years)
    remove(root)
