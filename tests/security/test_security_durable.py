"""Durable writes against kills, races and leftovers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from researchkit.errors import IntegrityError, WorkspaceError
from researchkit.security import durable

WRITE = """
import sys
from pathlib import Path
from researchkit.security.durable import write_once
write_once(Path(sys.argv[1]), sys.argv[2].encode() * 1000, site="object")
"""


def run(code: str, *args: str, **environ: str) -> int:
    """Run `code` in a fresh process and return its exit code."""
    return subprocess.run(
        [sys.executable, "-c", code, *args], env=os.environ | environ, stderr=subprocess.DEVNULL
    ).returncode


@pytest.mark.parametrize(("instant", "there"), [("before", False), ("after", True)])
def test_a_kill_leaves_the_old_state_or_the_new_one(tmp_path: Path, instant: str, there: bool) -> None:
    target = tmp_path / "objects" / "ab"
    kill = {"RESEARCHKIT_KILL_COUNT": str(tmp_path / "count"), "RESEARCHKIT_KILL_AT": f"object:{instant}:1"}
    assert run(WRITE, str(target), "a", **kill) == -signal.SIGKILL
    assert target.exists() is there
    assert durable.sweep_temporary(tmp_path / "objects") == (0 if there else 1)
    assert run(WRITE, str(target), "a", **kill) == 0  # the count goes on: the first arrival is over
    assert target.read_bytes() == b"a" * 1000
    assert [p.name for p in target.parent.iterdir()] == ["ab"]


def test_racing_writers_publish_one_content(tmp_path: Path) -> None:
    target = tmp_path / "objects" / "ab"
    children = [
        subprocess.Popen([sys.executable, "-c", WRITE, str(target), c], stderr=subprocess.DEVNULL)
        for c in "aabb"
    ]
    codes = [child.wait() for child in children]
    content = target.read_bytes()
    assert content in (b"a" * 1000, b"b" * 1000)
    winners = "aabb" if content[:1] == b"a" else "bbaa"
    assert [code == 0 for code in codes] == [c == winners[0] for c in "aabb"]


def test_counting_without_killing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESEARCHKIT_KILL_COUNT", str(tmp_path / "count"))
    for site in durable.SITES:
        for instant in durable.INSTANTS:
            durable.reached(site, instant)
    assert (tmp_path / "count").read_text().count("\n") == 2 * len(durable.SITES)


def test_sweep_leaves_living_writers_folders_and_links_alone(tmp_path: Path) -> None:
    fd, alive = durable._claim(tmp_path)
    (tmp_path / ".tmp-folder").mkdir()
    (tmp_path / ".tmp-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".tmp-dead").write_bytes(b"half")
    assert durable.sweep_temporary(tmp_path) == 1
    assert alive.exists()
    os.close(fd)
    assert durable.sweep_temporary(tmp_path) == 1
    assert durable.sweep_temporary(tmp_path / "missing") == 0


def test_sweep_removes_the_second_name_of_an_immutable_file(tmp_path: Path) -> None:
    target = durable.write_once(tmp_path / "object", b"x", site="object")
    os.link(target, tmp_path / ".tmp-second")
    fixed = durable.make_immutable(target)
    try:
        assert durable.sweep_temporary(tmp_path) == 1
        assert durable.is_immutable(target) is fixed
        assert target.read_bytes() == b"x"
    finally:
        assert durable.clear_immutable(target)


def test_scratch_folder_keeps_leftovers_in_one_place(tmp_path: Path) -> None:
    kill = {"RESEARCHKIT_KILL_COUNT": str(tmp_path / "count"), "RESEARCHKIT_KILL_AT": "object:before:1"}
    code = WRITE.replace('site="object"', 'site="object", scratch=Path(sys.argv[3])')
    assert (
        run(code, str(tmp_path / "objects" / "ab"), "a", str(tmp_path / "scratch"), **kill) == -signal.SIGKILL
    )
    assert list((tmp_path / "objects").iterdir()) == []
    assert durable.sweep_temporary(tmp_path / "scratch") == 1


def test_a_fault_of_the_producer_keeps_its_name(tmp_path: Path) -> None:
    def source():
        yield b"first"
        raise FileNotFoundError(2, "No such file", "vendor.dbn.zst")

    with pytest.raises(FileNotFoundError, match=r"vendor\.dbn\.zst"):
        durable.write_once(tmp_path / "x", source(), site="object")
    assert list(tmp_path.iterdir()) == []


def test_refusals(tmp_path: Path) -> None:
    durable.write_once(tmp_path / "x", b"one", site="object")
    with pytest.raises(IntegrityError, match="x is written once and holds other bytes"):
        durable.write_once(tmp_path / "x", iter([b"two"]), site="object")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WorkspaceError, match="cannot be made"):
        durable.write_over(tmp_path / "file" / "y", b"", site="policy")
    with pytest.raises(ValueError, match="no durable site 'objekt': did you mean object"):
        durable.write_once(tmp_path / "y", b"", site="objekt")
    assert not (tmp_path / "y").exists()


def test_a_name_is_durable_before_it_is_acknowledged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever published it may have been killed before the name had reached the disk."""
    path = durable.write_once(tmp_path / "one" / "note", b"first", site="archive")
    synced: list[tuple[int, int]] = []
    really = os.fsync

    def fsync(fd: int) -> None:
        synced.append((os.fstat(fd).st_dev, os.fstat(fd).st_ino))
        really(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    durable.write_once(path, b"first", site="archive")
    inodes = {inode for _, inode in synced}
    assert {path.stat().st_ino, path.parent.stat().st_ino} <= inodes
