"""Keys in a folder: swapped, planted, put back, killed half-way or read by others, they stay shut or stay whole."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from researchkit.errors import IntegrityError, SecretUnavailable
from researchkit.security.durable import sweep_temporary
from researchkit.security.keyfolder import FileShelf
from researchkit.security.keys import Keyring, open_keyring, signed_by
from researchkit.security.keysets import new_keyset
from researchkit.security.master import Master, writing
from researchkit.security.passphrase import find_passphrase, given_passphrase
from researchkit.security.secret import Secret
from researchkit.security.secrets import FileSecrets, open_secrets
from researchkit.settings import Settings

CHEAP = 1 << 10  # scrypt's n: the tests are about words, not about waiting
PHRASE = "correct horse battery"


def sealed(keys: Keyring, plain: bytes, name: str = "demo") -> bytes:
    """Ciphertext of `plain`."""
    sink = io.BytesIO()
    keys.encrypt(name, io.BytesIO(plain), sink, bound_to=b"id")
    return sink.getvalue()


def opened(keys: Keyring, cipher: bytes, name: str = "demo") -> bytes:
    """Plaintext of `cipher`."""
    return keys.decrypt(name, io.BytesIO(cipher), bound_to=b"id").read()


def locked(folder: Path, phrase: str | None = PHRASE) -> Keyring:
    """A keyring with a cheap passphrase; None when nobody can be asked."""
    master = Master(folder, None if phrase is None else lambda: Secret(phrase), cost=CHEAP)
    return Keyring(FileShelf(folder, master))


def older(folder: Path, *names: str) -> dict[str, str]:
    """A folder as earlier versions wrote it: keysets and a signing key as they are. The values, by file."""
    from cryptography.hazmat.primitives import serialization as to
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from tink import json_proto_keyset_format, secret_key_access

    folder.mkdir(mode=0o700)
    pem = Ed25519PrivateKey.generate().private_bytes(
        to.Encoding.PEM, to.PrivateFormat.PKCS8, to.NoEncryption()
    )
    content = {
        f"{n}.json": json_proto_keyset_format.serialize(new_keyset(), secret_key_access.TOKEN) for n in names
    }
    content["ledger.ed25519"] = pem.decode()
    for name, text in content.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text)
    return content


def in_child(deed: Callable[[], object], kill: str | None = None, folder: Path | None = None) -> int:
    """Do something in a child, killed at an instant such as `key:before:2`; its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        if kill:
            os.environ |= {"RESEARCHKIT_KILL_AT": kill, "RESEARCHKIT_KILL_COUNT": str(folder)}
        deed()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


# --- swaps and plants ---------------------------------------------------------------------------


def test_swapped_keysets_do_not_open(tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    keys.create("demo")
    keys.create("glbx")
    cipher = sealed(keys, b"x")
    demo, glbx = (keys.folder / f"{name}.json" for name in ("demo", "glbx"))
    first, second = demo.read_bytes(), glbx.read_bytes()
    demo.write_bytes(second)
    glbx.write_bytes(first)
    for name in ("demo", "glbx"):
        with pytest.raises(SecretUnavailable, match=rf"{name}\.json was changed, is of another key"):
            opened(keys, cipher, name)


def test_keysets_of_another_workspace_do_not_open(tmp_path: Path) -> None:
    mine, other = Keyring(tmp_path / "mine"), Keyring(tmp_path / "other")
    for keys in (mine, other):
        keys.create("demo")
        keys.signer()
    shutil.copy(other.folder / "demo.json", mine.folder / "demo.json")
    shutil.copy(other.folder / "ledger.ed25519", mine.folder / "ledger.ed25519")
    with pytest.raises(SecretUnavailable, match="wrapped under another master key"):
        sealed(mine, b"x")
    with pytest.raises(SecretUnavailable, match=r"ledger\.ed25519 was changed, or was sealed under another"):
        mine.signer()


def test_a_planted_unwrapped_keyset_is_not_believed(tmp_path: Path) -> None:
    keys = locked(tmp_path / "keys")
    keys.create("demo")
    theirs = older(tmp_path / "theirs", "demo")["demo.json"]
    (keys.folder / "demo.json").write_text(theirs)
    with pytest.raises(SecretUnavailable, match="is not wrapped, and was not here when wrapping began"):
        sealed(keys, b"x")
    master = json.loads((keys.folder / "master.json").read_text())
    import hashlib

    master["adopts"] = {"demo.json": hashlib.sha256(theirs.encode()).hexdigest()}
    (keys.folder / "master.json").write_text(json.dumps(master))
    with pytest.raises(
        SecretUnavailable, match=r"the passphrase is wrong, or master\.json is not what was written"
    ):
        sealed(locked(keys.folder), b"x")


def test_a_planted_public_key_is_not_trusted(tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    first = keys.signer()
    path = keys.folder / "ledger.ed25519"
    found = json.loads(path.read_text())
    found["trusted"].insert(0, "ab" * 32)
    path.write_text(json.dumps(found))
    with pytest.raises(SecretUnavailable, match=r"ledger\.ed25519 was changed"):
        keys.signer()
    found["trusted"].pop(0)
    path.write_text(json.dumps(found))
    assert keys.signer().trusted == (first.public_hex,)


def test_swapped_and_edited_secrets_do_not_open(tmp_path: Path) -> None:
    secrets = open_secrets(Settings(tmp_path))
    assert isinstance(secrets, FileSecrets)
    secrets.put("lake", Secret("7vXq-rm2k"))
    secrets.put("vendor", Secret("db-3f0c77"))
    lake, vendor = (secrets.folder / f"{name}.json" for name in ("lake", "vendor"))
    shutil.copy(vendor, lake)
    with pytest.raises(SecretUnavailable, match=r"lake\.json was changed, is of another name"):
        secrets.get("lake")
    found = json.loads(vendor.read_text())
    vendor.write_text(json.dumps(found | {"version": 2}))
    with pytest.raises(SecretUnavailable, match=r"vendor\.json was changed"):
        secrets.get("vendor")


# --- passphrases ---------------------------------------------------------------------------------


def test_a_passphrase_that_is_wrong_absent_or_changed(tmp_path: Path) -> None:
    keys = locked(tmp_path / "keys")
    keys.create("demo")
    cipher, signer = sealed(keys, b"x"), keys.signer()
    assert opened(locked(keys.folder), cipher) == b"x"
    for wrong in ("correct horse batter", "", PHRASE + "\n"):
        for step in (
            lambda w=wrong: opened(locked(keys.folder, w), cipher),
            locked(keys.folder, wrong).signer,
        ):
            with pytest.raises(
                SecretUnavailable, match=r"does not open: the passphrase is wrong, or master\.json"
            ):
                step()
    with pytest.raises(
        SecretUnavailable, match="and there is none: name a file of mode 0600 in RESEARCHKIT_PASS"
    ):
        opened(locked(keys.folder, None), cipher)
    with writing(keys.folder):
        Master(keys.folder, lambda: Secret(PHRASE), cost=CHEAP).change_passphrase(Secret("another phrase"))
    with pytest.raises(SecretUnavailable, match="the passphrase is wrong"):
        opened(keys, cipher)  # which had it open: the file has changed
    again = locked(keys.folder, "another phrase")
    assert (opened(again, cipher), again.signer().public_hex) == (b"x", signer.public_hex)
    Master(keys.folder, lambda: Secret("another phrase")).change_passphrase(None)
    assert opened(locked(keys.folder, None), cipher) == b"x"


def test_a_passphrase_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path := tmp_path / "phrase").touch(mode=0o600)
    path.write_text(f"{PHRASE}\n")
    assert given_passphrase({"RESEARCHKIT_PASSPHRASE_FILE": str(path)}) == Secret(PHRASE)
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(SecretUnavailable, match=f"phrase has mode {mode:04o} and others may read it"):
            find_passphrase({"RESEARCHKIT_PASSPHRASE_FILE": str(path)})
    path.rename(tmp_path / "researchkit-passphrase")
    assert given_passphrase({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == Secret(PHRASE)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    keys = open_keyring(Settings(tmp_path))
    keys.create("demo")
    assert Master(keys.folder).protected
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(SecretUnavailable, match="there is none"):
        sealed(open_keyring(Settings(tmp_path)), b"x")


# --- ends and rotations -----------------------------------------------------------------------------


def test_a_destroyed_key_does_not_come_back_with_a_copy(tmp_path: Path) -> None:
    keys = locked(tmp_path / "keys")
    keys.create("demo")
    keys.create("other")
    secrets = FileSecrets(keys.folder, keys.shelf.master)  # type: ignore[attr-defined]
    secrets.put("lake", Secret("7vXq-rm2k"))
    cipher, other, signer = sealed(keys, b"x"), sealed(keys, b"y", "other"), keys.signer()
    copy = shutil.copytree(keys.folder, tmp_path / "copy")
    keys.destroy("demo")
    keys.destroy("demo")
    assert (keys.names(), list(keys.destroyed())) == (["other"], ["demo"])
    assert (opened(keys, other, "other"), keys.signer()) == (b"y", signer)
    assert secrets.get("lake") == Secret("7vXq-rm2k")
    for step in (lambda: keys.create("demo"), lambda: opened(keys, cipher)):
        with pytest.raises(SecretUnavailable, match="key 'demo' was destroyed on"):
            step()
    shutil.copy2(copy / "demo.json", keys.folder / "demo.json")
    shutil.rmtree(keys.folder / "destroyed")
    with pytest.raises(SecretUnavailable, match="or was wrapped under another master key"):
        opened(keys, cipher)
    with pytest.raises(SecretUnavailable, match="no key 'nothing'"):
        keys.destroy("nothing")


def test_rotation_touches_no_data(tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    keys.create("demo")
    cipher, before = sealed(keys, b"x" * 3_000_000), (keys.folder / "demo.json").read_bytes()
    keys.rotate("demo")
    assert Master(keys.folder).versions() == 2
    keys.rotate()
    assert Master(keys.folder).versions() == 1
    assert opened(keys, cipher) == b"x" * 3_000_000
    (keys.folder / "demo.json").write_bytes(before)
    with pytest.raises(SecretUnavailable, match="wrapped under another master key"):
        opened(keys, cipher)


def test_readers_and_makers_during_rotations(tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    keys.create("demo")
    cipher = sealed(keys, b"x")

    def used(i: int) -> bytes:
        ring = Keyring(keys.folder)
        if i % 5 == 0:
            ring.rotate()
        if i % 20 == 3:
            with writing(ring.folder):
                Master(ring.folder).change_passphrase(None)
        if i % 5 == 1:
            ring.create(f"k{i}")
            FileSecrets(ring.folder, Master(ring.folder)).put("lake", Secret(f"value-{i}"))
        return opened(ring, cipher)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(used, range(60))) == {b"x"}
    last = Keyring(keys.folder)
    assert {opened(last, sealed(last, b"y", name), name) for name in last.names()} == {b"y"}
    assert FileSecrets(last.folder, Master(last.folder)).version("lake") == 12


# --- killed half-way ---------------------------------------------------------------------------------

ROTATE = [f"key:{instant}:{n}" for n in (1, 2, 4, 5) for instant in ("before", "after")]
DESTROY = ["shred:before:1", "shred:after:1", "key:before:1", "key:after:1", "key:before:2", "key:after:3"]


@pytest.mark.parametrize("kill", ROTATE)
def test_killed_in_a_rotation(kill: str, tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    keys.create("demo")
    keys.create("glbx")
    signer, ciphers = keys.signer(), {name: sealed(keys, b"x", name) for name in ("demo", "glbx")}
    assert os.WTERMSIG(in_child(Keyring(keys.folder).rotate, kill, tmp_path / "count")) == signal.SIGKILL
    after = Keyring(keys.folder)
    for again in (lambda: None, after.rewrap):
        again()
        assert {opened(after, cipher, name) for name, cipher in ciphers.items()} == {b"x"}
        assert after.signer() == signer
    assert Master(keys.folder).versions() == 1


@pytest.mark.parametrize("kill", DESTROY)
def test_killed_in_a_destruction(kill: str, tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    keys.create("demo")
    keys.create("glbx")
    cipher, other = sealed(keys, b"x"), sealed(keys, b"y", "glbx")
    envelope = (keys.folder / "demo.json").read_bytes()
    deed = Keyring(keys.folder)
    assert os.WTERMSIG(in_child(lambda: deed.destroy("demo"), kill, tmp_path / "count")) == signal.SIGKILL
    after = Keyring(keys.folder)
    if kill == "shred:before:1":
        assert opened(after, cipher) == b"x"  # nothing has happened yet
    else:
        with pytest.raises(SecretUnavailable, match="key 'demo' was destroyed on"):
            opened(after, cipher)
    after.destroy("demo")
    assert opened(after, other, "glbx") == b"y"
    assert (after.names(), Master(keys.folder).versions()) == (["glbx"], 1)
    shutil.rmtree(keys.folder / "destroyed")
    (keys.folder / "demo.json").touch(mode=0o600)
    (keys.folder / "demo.json").write_bytes(envelope)
    with pytest.raises(SecretUnavailable, match="wrapped under another master key"):
        opened(after, cipher)


@pytest.mark.parametrize("kill", [None, *(f"key:{i}:{n}" for n in (1, 2, 4) for i in ("before", "after"))])
def test_an_older_folder_is_taken_over(kill: str | None, tmp_path: Path) -> None:
    plain = older(tmp_path / "keys", "demo", "glbx")
    folder = tmp_path / "keys"
    status = in_child(lambda: Keyring(folder).shelf.load("demo"), kill, tmp_path / "count")
    assert os.WTERMSIG(status) == (signal.SIGKILL if kill else 0)
    keys = Keyring(folder)
    values = {
        f"{name}.json": json.loads(plain[f"{name}.json"])["key"][0]["keyData"]["value"]
        for name in keys.names()
    }
    assert keys.names() == ["demo", "glbx"]
    signer = keys.signer()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    was = load_pem_private_key(plain["ledger.ed25519"].encode(), None).public_key()  # type: ignore[union-attr]
    assert signer.public_hex == was.public_bytes_raw().hex()  # type: ignore[union-attr]
    pieces = keys.fingerprints()  # of the same keys as before
    for value in values.values():
        raw = base64.b64decode(value)
        assert any(piece in raw for piece in pieces)
    sweep_temporary(folder)
    left = [p.name for p in folder.iterdir() if any(v.encode() in p.read_bytes() for v in values.values())]
    assert left == []


@pytest.mark.parametrize("kill", ["secret:before:2", "secret:after:2"])
def test_killed_in_a_write_of_a_secret(kill: str, tmp_path: Path) -> None:
    secrets = open_secrets(Settings(tmp_path))

    def deed() -> None:
        secrets.put("lake", Secret("first-value"))
        secrets.put("lake", Secret("second-value"))

    assert os.WTERMSIG(in_child(deed, kill, tmp_path / "count")) == signal.SIGKILL
    late = kill.startswith("secret:after")
    assert secrets.get("lake") == Secret("second-value" if late else "first-value")
    assert secrets.version("lake") == 1 + late


# --- others ------------------------------------------------------------------------------------------


def test_another_user_gets_nothing(tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    keys.create("demo")
    cipher = sealed(keys, b"x")
    open_secrets(Settings(tmp_path)).put("lake", Secret("7vXq-rm2k"))
    if os.geteuid():
        keys.folder.chmod(0)  # the same as being somebody else
    else:
        for folder in (tmp_path, *tmp_path.parents[:-2]):
            folder.chmod(folder.stat().st_mode | 0o011)

    def deed() -> None:
        if not os.geteuid():
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        ring = Keyring(keys.folder)
        for step in (
            lambda: opened(ring, cipher), ring.signer, lambda: ring.create("demo"), lambda: ring.destroy("demo"),
            ring.rotate, lambda: open_secrets(Settings(tmp_path)).get("lake"),
        ):  # fmt: skip
            with pytest.raises(
                SecretUnavailable, match=r"(keys|destroyed|secrets)/ cannot be entered: Permission denied"
            ):
                step()

    try:
        assert in_child(deed) == 0
    finally:
        keys.folder.chmod(0o700)
    assert opened(keys, cipher) == b"x"


@pytest.mark.parametrize("name", ["master.json", "secrets/lake.json"])
def test_what_others_may_read_is_not_used(name: str, tmp_path: Path) -> None:
    secrets = open_secrets(Settings(tmp_path))
    secrets.put("lake", Secret("7vXq-rm2k"))
    (tmp_path / "keys" / name).chmod(0o644)
    with pytest.raises(SecretUnavailable, match="has mode 0644 and others may read it; it must be 0600"):
        secrets.get("lake")


def test_a_lost_master_key_is_not_replaced(tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    keys.create("demo")
    cipher = sealed(keys, b"x")
    (keys.folder / "master.json").unlink()
    for step in (
        lambda: keys.create("new"),
        lambda: open_secrets(Settings(tmp_path)).put("a", Secret("bcdefgh")),
    ):
        with pytest.raises(
            SecretUnavailable, match=r"master\.json is gone and demo\.json was wrapped under it; restore"
        ):
            step()
    with pytest.raises(SecretUnavailable, match=r"the master key: master\.json is not in keys/"):
        opened(keys, cipher)


def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    private = "-".join(["7vXq", "rm2k", "9d0p", "ws81"])  # not in the source
    keys = locked(tmp_path / "keys")
    keys.create("demo")
    master = keys.shelf.master  # type: ignore[attr-defined]
    secrets = FileSecrets(keys.folder, master)
    secrets.put("lake", {"user": Secret("reader"), "password": Secret(private)})
    things = [keys, keys.signer(), keys.shelf, master, secrets, secrets.fields("lake")]
    shown = [repr(thing) for thing in things] + [str(vars(thing)) for thing in things[:-1]]
    pieces = (*keys.fingerprints(), private.encode())
    assert any(private[1:-1].encode() in p or p in private.encode() for p in keys.fingerprints())
    steps = (
        lambda: secrets.get("lake"),
        lambda: secrets.put("lake", Secret(private), version=7),
        lambda: opened(locked(keys.folder, private), b""),
        lambda: opened(keys, b"", "nothing"),
    )
    for step in steps:
        with pytest.raises((SecretUnavailable, IntegrityError)) as caught:
            step()
        shown.append("".join(traceback.format_exception(caught.value)))
    for path in keys.folder.rglob("*"):  # and on the disk, under a passphrase, nothing is there to be read
        shown.append(path.read_bytes().decode(errors="replace") if path.is_file() else "")
    assert [text for text in shown for piece in pieces if piece in text.encode()] == []


def with_locals(step: Callable[[], object]) -> str:
    """The traceback of a step that fails, with the local variables of every frame below this one."""
    try:
        step()
    except Exception as e:
        said = traceback.TracebackException.from_exception(e, capture_locals=True)
        said.stack[:2] = []
        return "".join(said.format())
    raise AssertionError("it did not fail")


def test_no_frame_of_a_traceback_holds_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = "-".join(["7vXq", "rm2k", "9d0p", "ws81"])
    keys = Keyring(tmp_path / "keys")
    keys.create("demo")
    keys.signer()
    shelf = keys.shelf
    assert isinstance(shelf, FileShelf)
    secrets = FileSecrets(keys.folder, shelf.master)
    secrets.put("fields", {"user": Secret("reader"), "password": Secret(private)})
    secrets.put("text", Secret(private))
    both = {"password": Secret(private), "other": Secret("")}
    reports = {
        "the wrong shape": with_locals(lambda: secrets.get("fields")),
        "another wrong shape": with_locals(lambda: secrets.fields("text")),
        "somebody was quicker": with_locals(lambda: secrets.put("text", Secret(private), version=7)),
        "an empty field": with_locals(lambda: secrets.put("text", both)),
    }
    seen = {repr(piece)[2:-1].encode() for piece in keys.fingerprints()} | {*keys.fingerprints()}

    def full(*given: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("researchkit.security.durable.os.write", full)  # in the middle of everything
        for name, step in {
            "a full disk in put": lambda: secrets.put("text", {"password": Secret(private)}),
            "a full disk in rotate_signer": keys.rotate_signer,
            "a full disk in rotate": keys.rotate,
            "a full disk in create": lambda: Keyring(tmp_path / "new").create("demo"),
        }.items():
            reports[name] = with_locals(step)
    theirs = older(tmp_path / "older", "demo")
    seen |= {value.encode()[-60:-20] for value in theirs.values()} | {private.encode()}
    with monkeypatch.context() as patch:
        patch.setattr("researchkit.security.durable.os.write", full)
        ring = Keyring(tmp_path / "older")
        reports["a full disk while old keys are wrapped"] = with_locals(lambda: sealed(ring, b"x"))
        reports["the same for the signing key"] = with_locals(ring.signer)
    (keys.folder / "ledger.ed25519").write_text(theirs["ledger.ed25519"])
    reports["a planted signing key"] = with_locals(keys.signer)
    broken = json.loads((keys.folder / "master.json").read_text()) | {"layout": 9}
    (keys.folder / "master.json").write_text(json.dumps(broken))
    reports["a master key of another layout"] = with_locals(keys.rotate)
    assert all("Error" in text or "Unavailable" in text for text in reports.values())
    assert [name for name, text in reports.items() for piece in seen if piece in text.encode()] == []
    assert all("self = " in text for text in reports.values())  # the locals were there to be seen


def test_a_planted_signing_key_is_not_wrapped_by_a_rotation(tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    keys.create("demo")
    first = keys.signer()
    good = {path: path.read_bytes() for path in (keys.folder / "ledger.ed25519", keys.folder / "demo.json")}
    theirs = older(tmp_path / "theirs", "demo")
    for path, content in good.items():
        path.write_text(theirs[path.name])
        for step in (keys.rotate, keys.rewrap, *([keys.rotate_signer] if path.suffix != ".json" else [])):
            with pytest.raises(SecretUnavailable, match=f"{path.name} was changed, "):
                step()
        assert path.read_text() == theirs[path.name]
        path.write_bytes(content)
    assert keys.signer() == first


def test_two_rotations_of_the_signer_lose_no_public_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from researchkit.security import keyfolder

    keys, other = Keyring(tmp_path / "keys"), Keyring(tmp_path / "keys")
    first, between = keys.signer().public_hex, []

    def late(folder: Path) -> object:  # another process is quicker to the lock
        if not between:
            between.append("")
            other.rotate_signer()
            between[0] = other.signer().public_hex
        return writing(folder)

    monkeypatch.setattr(keyfolder, "writing", late)
    keys.rotate_signer()
    monkeypatch.undo()
    signer = keys.signer()
    assert signer.trusted == (first, between[0], signer.public_hex)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: Keyring(keys.folder).rotate_signer() if i % 2 else keys.signer(), range(16)))
    trusted = keys.signer().trusted
    assert len(set(trusted)) == 3 + 8
    assert (keys.folder / "ledger.ed25519.pub").read_text().split() == list(trusted)


def test_signers_of_before_a_rotation_are_trusted(tmp_path: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    first = keys.signer()
    old = first.sign(b"x")
    keys.rotate_signer()
    keys.rotate()
    second = keys.signer()
    assert second.trusted == (first.public_hex, second.public_hex)
    assert [signed_by(key, b"x", old) for key in second.trusted] == [True, False]
    assert (keys.folder / "ledger.ed25519.pub").read_text().split() == list(second.trusted)
