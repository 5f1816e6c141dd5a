"""Objects and keysets under each other's names, and keys that come back from the dead."""

from __future__ import annotations

import io
import os
import shutil
import signal
from pathlib import Path

import pytest
from forked import Child
from vaulted import ME, TABLE, Vaulted, reopen

from researchkit.errors import IntegrityError, SecretUnavailable
from researchkit.security.durable import clear_immutable

ONE, TWO = b"one" * 1000, b"two" * 1000


def put(ws: Vaulted, data: bytes, name: str, key: str = "own") -> str:
    return str(ws.raw.put(data, name=name, key=key, table=TABLE, context=ME).sha256)


def exchange(one: Path, other: Path) -> None:
    """Exchange two files, immutable or not."""
    for path in (one, other):
        clear_immutable(path)
        path.chmod(0o644)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.attack("swapped objects", tier="embedded")
@pytest.mark.parametrize("registry", [False, True], ids=["files", "files and register"])
def test_swapped_objects_do_not_open(ws: Vaulted, registry: bool) -> None:
    one, two = put(ws, ONE, "one"), put(ws, TWO, "two")
    exchange(*(ws.root / "raw" / ws.raw.record(sha256).path for sha256 in (one, two)))
    if registry:  # whoever swaps the files may also swap what the register says of them
        mine, other = (ws.raw.record(sha256).cipher_sha256 for sha256 in (one, two))
        change = "UPDATE raw_objects SET cipher_sha256 = :c WHERE sha256 = :s"
        ws.registry.write((change, [{"c": other, "s": one}, {"c": mine, "s": two}]))
    for sha256 in (one, two):
        with pytest.raises(IntegrityError, match="encrypted for another object"):
            ws.raw.get(sha256, context=ME)
    assert [finding.ok for finding in ws.raw.verify()] == [False, False]


@pytest.mark.attack("swapped objects", tier="embedded")
def test_an_older_version_under_the_newer_ones_hash_does_not_open(ws: Vaulted) -> None:
    old, new = put(ws, ONE, "bars"), put(ws, TWO, "bars")
    target = ws.root / "raw" / ws.raw.record(new).path
    exchange(ws.root / "raw" / ws.raw.record(old).path, target)
    with pytest.raises(IntegrityError):
        ws.raw.get(new, context=ME)


@pytest.mark.attack("a register that lies", tier="embedded")
@pytest.mark.parametrize("column", ["bytes", "cipher_bytes", "name", "table_name", "key_name", "sha256"])
def test_an_edited_register_opens_nothing_else(ws: Vaulted, column: str) -> None:
    one = put(ws, ONE, "one")
    put(ws, TWO, "two", "other")
    value = {"key_name": "other", "sha256": "0" * 64, "bytes": 1, "cipher_bytes": 1}.get(
        column, "OWN.TEST/mbo"
    )
    ws.registry.write((f"UPDATE raw_objects SET {column} = :v WHERE sha256 = :s", [{"v": value, "s": one}]))
    try:
        got = ws.raw.get(one, context=ME)
    except (IntegrityError, LookupError, PermissionError):
        return
    assert got == ONE, "a register that lies must not lead to other bytes"


@pytest.mark.attack("a destroyed key put back", tier="embedded")
def test_a_destroyed_key_does_not_come_back_with_what_a_killed_rotation_left(
    ws: Vaulted, tmp_path: Path
) -> None:
    cipher = io.BytesIO()
    ws.keys.create("licence-a")
    ws.keys.encrypt("licence-a", io.BytesIO(ONE), cipher, bound_to=b"x")
    shutil.copy(ws.root / "keys" / "licence-a.json", tmp_path / "backup.json")
    _killed_rotation(ws, tmp_path)
    reopen(ws.root).keys.destroy("licence-a")
    shutil.rmtree(ws.root / "keys" / "destroyed")
    shutil.copy(tmp_path / "backup.json", ws.root / "keys" / "licence-a.json")
    for master in [*(ws.root / "keys").glob(".tmp-*"), ws.root / "keys" / "master.json"]:
        if master.name != "master.json":
            shutil.copy(master, ws.root / "keys" / "master.json")
        ring = reopen(ws.root).keys
        with pytest.raises(SecretUnavailable):
            ring.decrypt("licence-a", io.BytesIO(cipher.getvalue()), bound_to=b"x").read()


def _killed_rotation(ws: Vaulted, place: Path) -> None:
    """Kill a rotation of the master key just before it replaces the file."""

    def rotate() -> None:
        os.environ |= {"RESEARCHKIT_KILL_COUNT": str(place / "count"), "RESEARCHKIT_KILL_AT": "key:before:1"}
        ws.keys.rotate()

    assert Child(rotate).ended() == -signal.SIGKILL
