"""What a hostile reader of the raw zone would try: other questions, lost objects, late arrivals, broken sectors, refusals."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from researchkit.context import Context, Principal
from researchkit.data.door import Door
from researchkit.data.names import plain_name
from researchkit.data.objects import RawObject, hash_of, place_of
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.data.rehash import rehash
from researchkit.data.store import FileStore
from researchkit.errors import AccessDenied, IntegrityError, SecretUnavailable, WorkspaceError
from researchkit.security.durable import clear_immutable, is_immutable, make_immutable
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

ME = Context(Principal("engineer3", ("data-engineer", "quant", "custodian")))
TABLE = "DEMO/ohlcv-1d"


def zone(root: Path, **given: Any) -> SimpleNamespace:
    install(root / "policy")
    door = Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db"))
    registry, keys = Registry(f"sqlite:///{root}/catalog.db"), Keyring(root / "keys")
    raw = RawZone(root / "raw", registry=registry, keyring=keys, door=door, immutable=False, **given)
    return SimpleNamespace(raw=raw, door=door, registry=registry, root=root)


def put(raw: RawZone, content: bytes, name: str = "x", **given: Any) -> RawObject:
    return raw.put(content, **({"name": name, "key": "demo", "table": TABLE, "context": ME} | given))


@pytest.fixture
def ws(tmp_path: Path) -> SimpleNamespace:
    return zone(tmp_path)


def at(ws: SimpleNamespace, found: RawObject) -> Path:
    return Path(ws.raw.folder / found.path)


# --- who asks, and what is acknowledged ---------------------------------------------------------


@pytest.mark.parametrize("action", ["run", "register", "delete", "", "READ"])
def test_the_caller_does_not_choose_which_question_policy_is_asked(ws: SimpleNamespace, action: str) -> None:
    kept = put(ws.raw, b"order book", table="DEMO/other")
    quant = Context(Principal("quant1", ("quant",)))
    with pytest.raises(ValueError, match="raw bytes are handed out to read or ingest"):
        ws.raw.get(kept.sha256, context=quant, action=action)
    assert ws.door.ledger.entries(kind="raw read") == []


def lose(path: Path) -> None:
    path.unlink()


def damage(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


def link(path: Path) -> None:
    path.rename(path.with_name("aside"))
    path.symlink_to("aside")


@pytest.mark.parametrize("harm", [lose, damage, link])
@pytest.mark.parametrize("name", ["x", "y"])
def test_what_is_lost_or_damaged_is_not_acknowledged_again(
    ws: SimpleNamespace, harm: Callable[[Path], None], name: str
) -> None:
    kept = put(ws.raw, b"gold")
    harm(at(ws, kept))
    with pytest.raises(IntegrityError, match=f"is damaged: .*restore {kept.path} from a backup"):
        put(ws.raw, b"gold", name)
    assert [v.name for v in ws.raw.versions("y", TABLE)] == []


def test_nobody_promises_to_keep_what_is_not_there(ws: SimpleNamespace) -> None:
    kept = put(ws.raw, b"gold")
    at(ws, kept).unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        ws.raw.hold(kept.sha256, True, "court", context=ME)
    with pytest.raises(IntegrityError, match="is missing"):
        ws.raw.retain(kept.sha256, date(2099, 1, 1), context=ME)
    with pytest.raises(IntegrityError, match="is missing"):
        ws.raw.store.hold(kept.path, on=True)
    assert [e for k in ("hold", "retain") for e in ws.door.ledger.entries(kind=k)] == []


def test_a_date_beyond_what_can_be_written_down_leaves_no_line(ws: SimpleNamespace) -> None:
    kept = put(ws.raw, b"gold")
    with pytest.raises(ValueError, match="until must be before 2262-04-11"):
        ws.raw.retain(kept.sha256, date(2263, 1, 1), context=ME)
    assert ws.door.ledger.entries(kind="retain") == []


def test_a_key_that_is_destroyed_while_something_is_put(
    ws: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(ws.raw, b"first", key="lic")
    real = Keyring.encrypt

    def slow(self: Keyring, name: str, *rest: Any, **given: Any) -> None:
        real(self, name, *rest, **given)
        Keyring(ws.root / "keys").destroy("lic")

    monkeypatch.setattr(Keyring, "encrypt", slow)
    with pytest.raises(SecretUnavailable, match="key 'lic' was destroyed on"):
        put(ws.raw, b"second", "y", key="lic")
    with pytest.raises(SecretUnavailable, match="key 'lic' was destroyed on"):
        put(ws.raw, b"first", key="lic")
    with pytest.raises(SecretUnavailable, match="key 'lic' was destroyed on"):
        ws.raw.hold(hash_of(b"first"), True, "court", context=ME)
    assert [o.name for o in ws.raw.objects()] == ["x"]


def test_an_adopted_object_is_forced_to_the_disk(
    ws: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(ws.raw, b"warm")
    ws.raw._objects.publish(b"gold", hash_of(b"gold"), "demo")  # and then killed
    synced, fsync = [], os.fsync

    def remember(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", remember)
    put(ws.raw, b"gold", "y")
    place = ws.raw.folder / place_of(hash_of(b"gold"))
    assert {str(place), str(place.parent), str(place.parent.parent)} <= set(synced)


# --- refusals -----------------------------------------------------------------------------------


def test_a_refused_deletion_is_on_the_ledger_and_can_be_asked_for_again(
    ws: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = put(ws.raw, b"gold")

    def refuse(*given: Any) -> None:
        raise AccessDenied("server: object lock")

    with monkeypatch.context() as patch:
        patch.setattr(ws.raw.store, "delete", refuse)
        with pytest.raises(AccessDenied, match="object lock"):
            ws.raw.delete(kept.sha256, context=ME)
    assert ws.raw.get(kept.sha256, context=ME) == b"gold"
    assert rehash(ws.raw).ledger == 1
    ws.raw.delete(kept.sha256, context=ME)
    kinds = [e.kind for e in ws.door.ledger.entries(subject=f"raw:{kept.sha256}")]
    assert kinds == ["object", "delete", "delete refused", "raw read", "delete"]
    assert rehash(ws.raw).ledger == 0


def test_a_lock_that_belongs_to_somebody_else_is_said(ws: SimpleNamespace) -> None:
    put(ws.raw, b"gold")
    lock = ws.raw.folder / ".lock"
    lock.unlink(missing_ok=True)
    lock.symlink_to("elsewhere")
    with pytest.raises(WorkspaceError, match=r"\.lock in raw/ cannot be locked"):
        put(ws.raw, b"silver", "y")


@pytest.mark.parametrize("unseen", "\u3164\u115f\u034f\ufe0f\u2800\u17b4\uffa0\U000e0100", ids=ascii)
def test_what_shows_nothing_is_not_part_of_a_name(unseen: str) -> None:
    with pytest.raises(ValueError, match="none that are invisible"):
        plain_name(f"spx{unseen}.dbn")


def test_the_immutable_flag_follows_no_link(tmp_path: Path) -> None:
    victim, store = tmp_path / "victim", FileStore(tmp_path / "raw", immutable=True)
    victim.write_bytes(b"somebody else's")
    (tmp_path / "raw" / "objects" / "ab").mkdir(parents=True)
    (tmp_path / "raw" / "objects" / "ab" / "cd").symlink_to(victim)
    probe = tmp_path / "probe"
    probe.touch()
    works = make_immutable(probe)
    clear_immutable(probe)
    try:
        with pytest.raises(IntegrityError, match="link"):
            store.retain("objects/ab/cd")
        assert not is_immutable(victim)
        store.publish("objects/ab/ef", lambda sink: sink.write(b"x"))
        store.retain("objects/ab/ef")
        assert is_immutable(tmp_path / "raw/objects/ab/ef") == works == store.stat("objects/ab/ef").fixed  # type: ignore[union-attr]
    finally:
        for path in (victim, tmp_path / "raw/objects/ab/ef"):
            clear_immutable(path)


def test_leftovers_beside_records_are_swept(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "raw", immutable=False)
    store.publish("objects/ab/cd", lambda sink: sink.write(b"x"), until_ns=1)
    left = tmp_path / "raw" / "holds" / "objects" / "ff" / ".tmp-0123"
    left.parent.mkdir()
    left.touch()
    assert store.sweep() == 1
    assert not left.exists()


# --- checking everything ------------------------------------------------------------------------


class Stopped(Exception):
    """The check was interrupted."""


def interrupt(ws: SimpleNamespace, name: str) -> None:
    """Check everything, and stop after an object."""

    def stop(found: RawObject, finding: object) -> None:
        if found.name == name:
            raise Stopped

    with pytest.raises(Stopped):
        rehash(ws.raw, progress=stop, workers=1)


def test_what_came_after_the_interruption_is_read(ws: SimpleNamespace) -> None:
    for number in range(3, 8):
        put(ws.raw, bytes([number]), f"n{number}")
    interrupt(ws, "n6")
    early = put(ws.raw, b"new", "n0")
    at(ws, early).unlink()
    report = rehash(ws.raw)
    assert [f.name for f in report.broken] == [early.sha256]
    assert (report.objects, report.earlier, report.listed, report.complete) == (2, 4, 6, True)
    assert not rehash(ws.raw).ok


def test_what_comes_and_goes_during_a_check_is_counted_once(ws: SimpleNamespace) -> None:
    kept = [put(ws.raw, bytes([number]), f"n{number}") for number in range(3, 8)]
    interrupt(ws, "n5")
    ws.raw.delete(kept[0].sha256, context=ME)
    ws.raw.delete(kept[4].sha256, context=ME)
    put(ws.raw, b"new", "n0")
    interrupt(ws, "n6")
    put(ws.raw, b"newer", "n1")
    report = rehash(ws.raw)
    assert (report.objects, report.earlier, report.listed, report.ledger) == (2, 3, 5, 5)
    assert (report.ok, str(report).rpartition(": ")[2]) == (True, "all hold")


def test_an_old_journal_is_not_believed(tmp_path: Path) -> None:
    now = [10**18]
    ws = zone(tmp_path, clock=lambda: now[0])
    for number in range(3):
        put(ws.raw, bytes([number]), f"n{number}")
    interrupt(ws, "n1")
    now[0] += 8 * 86_400 * 10**9
    assert (rehash(ws.raw).earlier, rehash(ws.raw).objects) == (0, 3)


def test_a_journal_that_claims_too_much_is_not_complete(ws: SimpleNamespace) -> None:
    kept = [put(ws.raw, bytes([number]), f"n{number}") for number in range(3)]
    interrupt(ws, "n0")
    with (ws.raw.folder / "rehash.journal").open("a") as file:
        file.write(f"{kept[-1].sha256} holds\n")
    report = rehash(ws.raw)
    assert (report.complete, report.ok) == (False, False)
    assert str(report).endswith("not complete, 3 are registered: begin again with --no-resume: those hold")
    assert rehash(ws.raw, resume=False).ok


def test_a_sector_that_cannot_be_read_is_a_finding(
    ws: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [put(ws.raw, bytes([number]), f"n{number}") for number in range(3)]
    real = ws.raw.store.open

    class Bad:
        def __init__(self, file: Any) -> None:
            self.file = file

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        readinto = read

        def close(self) -> None:
            self.file.close()

        def __enter__(self) -> Bad:
            return self

        def __exit__(self, *fault: object) -> None:
            self.close()

    def opened(name: str, version: str = "") -> Any:
        return Bad(real(name)) if name == kept[0].path else real(name)

    monkeypatch.setattr(ws.raw.store, "open", opened)
    for _ in range(2):
        report = rehash(ws.raw)
        assert [f.words for f in report.broken] == [
            f"raw object {kept[0].sha256} cannot be read: Input/output error"
        ]
        assert report.objects == 3
    with pytest.raises(IntegrityError, match="cannot be read: Input/output error"):
        ws.raw.get(kept[0].sha256, context=ME)


def test_an_object_whose_key_is_lost_or_damaged_does_not_hold(ws: SimpleNamespace) -> None:
    put(ws.raw, b"gold")
    ended = put(ws.raw, b"silver", "y", key="lic")
    envelope = ws.root / "keys" / "demo.json"
    data = envelope.read_bytes()
    envelope.write_bytes(data[:60] + b"AAAA" + data[64:])
    [broken] = rehash(ws.raw).broken
    assert "its file holds, and nobody can read it" in broken.words
    assert (rehash(ws.raw, without_keys=True).unread, rehash(ws.raw, without_keys=True).ok) == (1, True)
    envelope.write_bytes(data)
    Keyring(ws.root / "keys").destroy("lic")
    report = rehash(ws.raw)
    assert (report.ok, report.unread) == (True, 1)
    assert "it was destroyed on" in ws.raw.check(ended).words


def test_a_row_that_was_taken_away_shows_in_the_count(ws: SimpleNamespace) -> None:
    kept = [put(ws.raw, bytes([number]), f"n{number}") for number in range(3)]
    ws.registry.write(("DELETE FROM raw_objects WHERE sha256 = :s", [{"s": kept[0].sha256}]))
    ws.registry.write(("UPDATE raw_objects SET deleted_ns = 1 WHERE sha256 = :s", [{"s": kept[1].sha256}]))
    assert "the ledger knows of 3 and the register of 1" in str(rehash(ws.raw))
