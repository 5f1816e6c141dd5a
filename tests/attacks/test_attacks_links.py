"""Links put where the platform writes, reads and tidies up: nothing goes where it does not belong."""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest
from forked import Child, refused
from vaulted import ME, TABLE, Vaulted

from researchkit.data.archive import Archive
from researchkit.errors import IntegrityError, ResearchKitError
from researchkit.security.durable import clear_immutable, sweep_temporary

DAY = date(2004, 12, 31)


def put(ws: Vaulted, data: bytes, name: str = "a.dbn") -> str:
    return str(ws.raw.put(data, name=name, key="own", table=TABLE, context=ME).sha256)


def place(ws: Vaulted, data: bytes) -> Path:
    """Where the object of these bytes lies or will lie."""
    sha256 = hashlib.sha256(data).hexdigest()
    return ws.root / "raw" / "objects" / sha256[:2] / sha256[2:]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that belongs to somebody else."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def exchange(one: Path, other: Path) -> None:
    """Exchange two names in one step (renameat2 with RENAME_EXCHANGE)."""
    here = -100
    if ctypes.CDLL(None, use_errno=True).renameat2(here, bytes(one), here, bytes(other), 2):
        raise OSError(ctypes.get_errno(), "renameat2")


@contextmanager
def flipping(folder: Path, target: Path) -> Iterator[None]:
    """Exchange a folder for a link to another one, and back, all the time."""
    link, over = folder.with_name(f"{folder.name}-link"), threading.Event()
    link.symlink_to(target)

    def flip() -> None:
        while not over.is_set():
            exchange(folder, link)
            over.wait(0.0003)
            exchange(folder, link)
            over.wait(0.0003)

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.attack("a link in the raw zone", tier="embedded")
def test_a_read_does_not_follow_a_link(ws: Vaulted, elsewhere: Path) -> None:
    sha256 = put(ws, b"first")
    at = place(ws, b"first")
    clear_immutable(at)
    at.rename(elsewhere / "moved")
    at.symlink_to(elsewhere / "moved")
    with pytest.raises(IntegrityError, match="link"):
        ws.raw.get(sha256, context=ME)
    assert [finding.ok for finding in ws.raw.verify()] == [False]


@pytest.mark.attack("a folder exchanged for a link while something is put", tier="embedded")
def test_what_is_acknowledged_in_a_race_lies_in_its_place(ws: Vaulted, elsewhere: Path) -> None:
    put(ws, b"first")
    kept = {}
    with flipping(ws.root / "raw" / "objects", elsewhere):
        for number in range(15):
            data = f"raced {number}".encode()
            try:
                kept[put(ws, data, f"{number}.dbn")] = data
            except (ResearchKitError, OSError):  # not acknowledged; what was left elsewhere is ciphertext
                continue
    for sha256, data in kept.items():
        assert ws.raw.get(sha256, context=ME) == data
    assert all(finding.ok for finding in ws.raw.verify())


@pytest.mark.attack("a second name for an object", tier="embedded")
def test_an_object_changed_through_a_second_name_is_seen(ws: Vaulted, elsewhere: Path) -> None:
    sha256 = put(ws, b"first")
    at = place(ws, b"first")
    fixed = ws.raw.custody(sha256).fixed
    if fixed:
        with pytest.raises(PermissionError):
            os.link(at, elsewhere / "second")
    clear_immutable(at)  # as root can
    os.link(at, elsewhere / "second")
    (elsewhere / "second").chmod(0o644)
    with (elsewhere / "second").open("r+b") as file:
        file.write(b"\0" * 8)
    with pytest.raises(IntegrityError):
        ws.raw.get(sha256, context=ME)
    assert [finding.ok for finding in ws.raw.verify()] == [False]


@pytest.mark.attack("a link in the archive", tier="embedded")
@pytest.mark.parametrize("what", ["folder", "dangling", "same bytes"])
def test_the_archive_does_not_follow_a_link(tmp_path: Path, elsewhere: Path, what: str) -> None:
    archive = Archive(tmp_path / "archive")
    run = archive.folder / "2004/12/31/job/run"
    run.parent.mkdir(parents=True)
    if what == "folder":
        run.symlink_to(elsewhere)
    else:
        run.mkdir()
        (run / "x.ipynb").symlink_to(elsewhere / "target")
    if what == "same bytes":
        (elsewhere / "target").write_bytes(b"{}")
    before = sorted(elsewhere.rglob("*"))
    assert refused(lambda: archive.put(b"{}", day=DAY, job="job", run="run", name="x.ipynb"))
    assert sorted(elsewhere.rglob("*")) == before


def test_the_archive_reads_nothing_outside(tmp_path: Path, elsewhere: Path) -> None:
    archive = Archive(tmp_path / "archive")
    archive.put(b"{}", day=DAY, job="job", run="run", name="x.ipynb")
    (elsewhere / "secret").write_bytes(b"s")
    (archive.folder / "2005").symlink_to(elsewhere)
    for relative in ("2005/secret", "../elsewhere/secret", str(elsewhere / "secret"), "2004/\0"):
        assert refused(lambda relative=relative: archive.path(relative)), relative


@pytest.mark.attack("a link among the keys", tier="embedded")
def test_a_new_key_is_not_written_through_a_link(ws: Vaulted, elsewhere: Path) -> None:
    ws.keys.create("own")
    (ws.root / "keys" / "new.json").symlink_to(elsewhere / "stolen.json")
    (ws.root / "keys" / "destroyed").mkdir(exist_ok=True)
    (ws.root / "keys" / "destroyed" / "own.json").symlink_to(elsewhere / "grave.json")
    assert refused(lambda: ws.keys.create("new"))
    refused(lambda: ws.keys.destroy("own"))
    refused(ws.keys.rotate)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.attack("a link among the keys", tier="embedded")
def test_a_rewritten_key_replaces_a_link_and_not_its_target(ws: Vaulted, elsewhere: Path) -> None:
    ws.keys.create("own")
    cipher = io.BytesIO()
    ws.keys.encrypt("own", io.BytesIO(b"x"), cipher, bound_to=b"x")
    for name in ("own.json", "master.json"):
        (ws.root / "keys" / name).rename(elsewhere / name)
        (ws.root / "keys" / name).symlink_to(elsewhere / name)
    before = {p.name: p.read_bytes() for p in elsewhere.iterdir()}
    refused(ws.keys.rotate)
    assert {p.name: p.read_bytes() for p in elsewhere.iterdir()} == before


@pytest.mark.attack("a trap for whoever tidies up", tier="embedded")
def test_a_sweep_touches_nothing_but_leftovers(tmp_path: Path, elsewhere: Path) -> None:
    swept, victim = tmp_path / "incoming", elsewhere / ".tmp-victim"
    swept.mkdir()
    victim.write_bytes(b"of somebody else")
    os.link(victim, swept / ".tmp-second-name")
    (swept / ".tmp-link").symlink_to(victim)
    (swept / "way-out").symlink_to(elsewhere)
    os.mkfifo(swept / ".tmp-pipe")
    child = Child(lambda: sweep_temporary(swept))  # a pipe that nobody writes to would hold it for ever
    timer = threading.Timer(5, os.kill, (child.pid, 9))
    timer.start()
    try:
        child.said()
    finally:
        timer.cancel()
    assert victim.read_bytes() == b"of somebody else"
    assert (swept / ".tmp-link").is_symlink()


@pytest.mark.attack("a trap for whoever tidies up", tier="embedded")
def test_a_sweep_survives_links_that_come_and_go(tmp_path: Path, elsewhere: Path) -> None:
    swept, victim, over = tmp_path / "incoming", elsewhere / "victim", threading.Event()
    swept.mkdir()
    victim.write_bytes(b"of somebody else")

    def flip() -> None:
        name = swept / ".tmp-flips"
        while not over.is_set():
            name.write_bytes(b"")
            name.unlink(missing_ok=True)
            name.symlink_to(victim)
            name.unlink(missing_ok=True)

    thread = threading.Thread(target=lambda: _until(over, flip))
    thread.start()
    try:
        for _ in range(1500):
            sweep_temporary(swept)
    finally:
        over.set()
        thread.join()
    assert victim.read_bytes() == b"of somebody else"


def _until(over: threading.Event, step: Callable[[], None]) -> None:
    """Go on where two of them meet."""
    while not over.is_set():
        try:
            step()
        except FileExistsError:
            continue
