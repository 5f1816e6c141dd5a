"""What the attacks share: the helpers beside them, a workspace to attack, a disk that is soon full."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from vaulted import Vaulted, create, remove


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Vaulted]]:
    """Makes workspaces and takes them away with their immutable objects."""
    roots: list[Path] = []

    def make(name: str = "ws", **settings: str) -> Vaulted:
        roots.append(tmp_path / name)
        return create(roots[-1], **settings)

    yield make
    for root in roots:
        remove(root)


@pytest.fixture
def ws(made: Callable[..., Vaulted]) -> Vaulted:
    """A workspace of the embedded tier."""
    return made()


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An ext4 file system of 16 MB, mounted from a file, for root only."""
    place = tmp_path_factory.mktemp("disk")
    image, at = place / "image", place / "at"
    at.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    make = [
        "mkfs.ext4",
        "-q",
        "-m",
        "0",
        "-b",
        "4096",
        "-O",
        "^has_journal",
        image,
    ]  # blocks as on every larger disk:
    for step in (
        make,
        ["mount", "-o", "loop", image, at],
    ):  # SQLite's shared memory takes pages of 4096 for granted
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {(done.stderr or done.stdout).strip()}")
    yield at
    subprocess.run(["umount", "-l", at], check=True)
