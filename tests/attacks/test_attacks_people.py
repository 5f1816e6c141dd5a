"""Another user of the machine, and a second writer of the same name."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from forked import as_nobody, refused
from vaulted import ME, TABLE, Vaulted, create, remove, reopen

from researchkit.data.archive import Archive
from researchkit.security.secret import Secret

DAY = date(2004, 12, 31)

# --- another user ---


def _tried(root: Path, sha256: str) -> dict[str, str]:
    """What happens when somebody else tries each thing; "" is success."""
    ws = reopen(root)

    def words(step: Callable[[], Any]) -> str:
        try:
            step()
        except Exception as e:
            return f"{type(e).__name__}: {e}"
        return ""

    raw, keys = root / "raw" / ws.raw.record(sha256).path, root / "keys"
    return {
        "use a key": words(lambda: ws.keys.signer()),
        "look for a key": words(lambda: ws.keys.exists("own") or ws.keys.create("own")),
        "list destroyed keys": words(lambda: ws.keys.destroyed()),
        "make a key": words(lambda: ws.keys.create("mine")),
        "read a secret": words(lambda: ws.secrets.get("db")),
        "write a secret": words(lambda: ws.secrets.put("db", Secret("mine"))),
        "read an object": words(lambda: ws.raw.get(sha256, context=ME)),
        "put an object": words(lambda: ws.raw.put(b"mine", name="b", key="own", table=TABLE, context=ME)),
        "delete an object": words(lambda: ws.raw.delete(sha256, context=ME)),
        "append": words(lambda: ws.ledger.append("forged", {}, ME)),
        "sign": words(lambda: ws.ledger.checkpoint()),
        "archive": words(lambda: Archive(root / "archive").put(b"x", day=DAY, job="j", run="r", name="n")),
        "open a keyset": words(lambda: (keys / "own.json").read_bytes()),
        "open the master key": words(lambda: (keys / "master.json").read_bytes()),
        "write over an object": words(lambda: raw.write_bytes(b"mine")),
        "unlink an object": words(raw.unlink),
        "put a line into the file": words(lambda: (root / "ledger.db").open("r+b").close()),
        "edit the grants": words(lambda: (root / "policy" / "grants.json").open("r+b").close()),
    }


@pytest.fixture
def open_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that every user may enter, unlike those of the tests."""
    place = Path("/var/tmp") / f"attacked-{os.getpid()}"
    place.mkdir(mode=0o755)
    yield place
    remove(place)


@pytest.mark.attack("another user of the machine", tier="embedded")
def test_another_user_gets_nothing_and_is_told_so_in_plain_words(open_place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    ws = create(open_place / "ws")
    ws.secrets.put("db", Secret("mine alone"))
    sha256 = ws.raw.put(b"bars" * 100, name="a", key="own", table=TABLE, context=ME).sha256
    ws.ledger.checkpoint()
    said = as_nobody(lambda: _tried(ws.root, sha256))
    assert [what for what, words in said.items() if not words] == [], "these succeeded"
    assert not [words for words in said.values() if "mine alone" in words]
    files = ("open ", "write over", "unlink", "put a line", "edit")  # done without the platform
    rough = [
        f"{what}: {words}"
        for what, words in said.items()
        if not what.startswith(files)
        and not words.startswith(("SecretUnavailable", "WorkspaceError", "AccessDenied", "IntegrityError"))
    ]
    assert rough == [], "refused, but not in the project's own words"
    assert reopen(ws.root).ledger.verify().checkpoints == 1


@pytest.mark.attack("another user of the machine", tier="embedded")
def test_secrets_lie_in_closed_folders_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ws = create(tmp_path / "ws")
        ws.secrets.put("db", Secret("x"))
        ws.keys.create("own")
        ws.keys.signer()
        ws.keys.destroy("own")
    finally:
        os.umask(before)
    found = {p: stat.S_IMODE(p.stat().st_mode) for p in [ws.root / "keys", *(ws.root / "keys").rglob("*")]}
    loose = {p.name: oct(m) for p, m in found.items() if m & (0o077 if p.is_dir() else 0o022)}
    assert loose == {}
    readable = {p.name for p, m in found.items() if p.is_file() and m & 0o077}
    assert readable <= {"ledger.ed25519.pub", "own.json"}, "only public keys and gravestones"


@pytest.mark.attack("another user of the machine", tier="embedded")
@pytest.mark.parametrize("name", ["own.json", "master.json", "ledger.ed25519", "secrets/db.json"])
def test_a_key_that_others_may_read_is_refused(ws: Vaulted, name: str) -> None:
    ws.secrets.put("db", Secret("x"))
    sha256 = ws.raw.put(b"bars", name="a", key="own", table=TABLE, context=ME).sha256
    ws.keys.signer()
    (ws.root / "keys" / name).chmod(0o640)
    again = reopen(ws.root)
    steps = {"own.json": lambda: again.raw.get(sha256, context=ME), "ledger.ed25519": again.keys.signer}
    words = refused(steps.get(name, lambda: again.secrets.get("db")))
    assert "0640" in words
    assert "chmod 600" in words


# --- a second writer ---


@pytest.mark.attack("a second writer of a secret", tier="embedded")
def test_threads_that_write_one_secret_do_not_lose_any(ws: Vaulted) -> None:
    version, gate, said = ws.secrets.put("db", Secret("v1")), threading.Barrier(3), []

    def write(n: int) -> None:
        gate.wait()
        said.append(refused(lambda: reopen(ws.root).secrets.put("db", Secret(f"by {n}"), version=version)))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bool(words) for words in said) == [False, True, True]
    assert ws.secrets.version("db") == version + 1
