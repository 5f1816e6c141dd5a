"""Keys: what is refused, and that nothing of a key is ever shown."""

import io
import json
import stat
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researchkit.errors import IntegrityError, SecretUnavailable
from researchkit.security.keys import Keyring, signed_by


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    """A keyring with two keys and a signer."""
    ring = Keyring(tmp_path_factory.mktemp("ws") / "keys")
    ring.create("demo")
    ring.create("demo-sealed")
    ring.signer()
    return ring


def sealed(keys: Keyring, plain: bytes, name: str = "demo", bound_to: bytes = b"id") -> bytes:
    """Ciphertext of `plain`."""
    sink = io.BytesIO()
    keys.encrypt(name, io.BytesIO(plain), sink, bound_to=bound_to)
    return sink.getvalue()


def opened(keys: Keyring, cipher: bytes, name: str = "demo", bound_to: bytes = b"id") -> bytes:
    """Plaintext of `cipher`."""
    return keys.decrypt(name, io.BytesIO(cipher), bound_to=bound_to).read()


@pytest.mark.parametrize("size", [0, 1, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 7])
def test_every_size_comes_back(keys: Keyring, size: int) -> None:
    plain = bytes(i % 251 for i in range(1000)) * (size // 1000 + 1)
    assert opened(keys, sealed(keys, plain[:size])) == plain[:size]


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_any_changed_or_missing_byte_is_refused(keys: Keyring, at: float, bit: int, cut: bool) -> None:
    cipher = bytearray(sealed(keys, b"ES 4512.25 x 12" * 20))
    place = int(at * len(cipher))
    if cut:
        del cipher[place:]
    else:
        cipher[place] ^= 1 << bit
    with pytest.raises(IntegrityError, match="object id does not open under key 'demo'"):
        opened(keys, bytes(cipher))


def test_one_key_does_not_open_what_the_other_closed(keys: Keyring) -> None:
    with pytest.raises(IntegrityError, match="under key 'demo-sealed'"):
        opened(keys, sealed(keys, b"x"), name="demo-sealed")
    with pytest.raises(IntegrityError, match="object other"):
        opened(keys, sealed(keys, b"x"), bound_to=b"other")


def test_modes(keys: Keyring) -> None:
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in keys.folder.iterdir()}
    assert modes == {
        "demo.json": 0o600,
        "demo-sealed.json": 0o600,
        "ledger.ed25519": 0o600,
        "ledger.ed25519.pub": 0o444,
        "master.json": 0o600,
    }


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o666, 0o700 | 0o001])
def test_a_key_that_others_may_touch_is_not_used(tmp_path: Path, mode: int) -> None:
    ring = Keyring(tmp_path)
    ring.create("demo")
    ring.signer()
    cipher = sealed(ring, b"x")
    for name in ("demo.json", "ledger.ed25519"):
        (tmp_path / name).chmod(mode)
    for step in (lambda: opened(ring, cipher), ring.signer, ring.fingerprints):
        with pytest.raises(SecretUnavailable, match=f"mode {mode:04o}"):
            step()


def test_makers_that_race_share_one_key(tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "keys")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ring.create("demo"), range(8)))
        signers = list(pool.map(lambda _: ring.signer().public_hex, range(8)))
    assert len(set(signers)) == 1
    assert opened(ring, sealed(ring, b"x")) == b"x"
    assert not [p for p in ring.folder.iterdir() if p.name.startswith(".tmp-")]


def test_nothing_of_a_key_is_shown(tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "keys")
    ring.create("demo")
    signer = ring.signer()
    pieces = ring.fingerprints()
    shown = [
        repr(ring),
        repr(signer),
        str(vars(ring)),
        repr(ring.decrypt("demo", io.BytesIO(sealed(ring, b"x")), bound_to=b"id")),
    ]
    keyset = json.loads((ring.folder / "demo.json").read_text())
    keyset["encryptedKeyset"] = keyset["encryptedKeyset"][:-8] + "AAAAAAA="
    (ring.folder / "demo.json").write_text(json.dumps(keyset))
    (ring.folder / "ledger.ed25519").write_text(
        (ring.folder / "ledger.ed25519").read_text().replace("trusted", "trust")
    )
    master = (ring.folder / "master.json").read_text()
    for step in (lambda: opened(ring, b"x"), ring.signer, lambda: Keyring(ring.folder).fingerprints()):
        with pytest.raises(SecretUnavailable) as caught:
            step()
        shown.append("".join(traceback.format_exception(caught.value)))
        if step is ring.signer:
            (ring.folder / "master.json").write_text(master.replace("AesGcmKey", "NoSuchKey"))
    for text in shown:
        assert not [p for p in pieces if p in text.encode()], text


def test_a_leak_is_recognised_in_every_spelling(keys: Keyring) -> None:
    import base64

    from tink import json_proto_keyset_format, secret_key_access

    handle = keys.shelf.load("demo")
    plain = json.loads(json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN))
    master = json.loads((keys.folder / "master.json").read_text())["keyset"]
    for value in (plain["key"][0]["keyData"]["value"], master["key"][0]["keyData"]["value"]):
        raw = base64.b64decode(value)
        for spelling in (value.encode(), raw, raw.hex().encode(), raw.hex().upper().encode()):
            assert any(piece in b"..." + spelling + b"..." for piece in keys.fingerprints())
    assert all(len(piece) >= 12 for piece in keys.fingerprints())


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", ".hidden", "x" * 64, "a b"])
def test_names_are_plain_words(keys: Keyring, name: str) -> None:
    for step in (keys.create, keys.exists):
        with pytest.raises(ValueError, match="a key name is"):
            step(name)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(SecretUnavailable, match="no key 'demo': there is no key yet"):
        opened(Keyring(tmp_path / "nowhere"), b"x")
    assert Keyring(tmp_path / "nowhere").names() == []
    assert Keyring(tmp_path / "nowhere").fingerprints() == ()


def test_signatures(keys: Keyring) -> None:
    signer = keys.signer()
    signature = signer.sign(b"x")
    assert signed_by(signer.public_hex, b"x", signature)
    for wrong in (
        ("00" * 32, b"x", signature),
        (signer.public_hex, b"y", signature),
        ("zz", b"x", signature),
    ):
        assert not signed_by(*wrong)
    assert not signed_by(signer.public_hex, b"x", b"short")
