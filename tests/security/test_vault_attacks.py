"""The vault: sealed, revoked, expired, impersonated or raced for, it says so, and nothing secret is shown."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import io
import json
import logging
import os
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from openbao import OpenBao, free_port, serving
from tls import Authority

from researchkit.errors import IntegrityError, SecretUnavailable
from researchkit.security.keys import Keyring, open_keyring
from researchkit.security.keyvault import VaultShelf, ciphertext_in, version_of, with_ciphertext
from researchkit.security.secret import Secret
from researchkit.security.secrets import VaultSecrets, open_secrets
from researchkit.security.signing import signed_by
from researchkit.security.vault import Vault
from researchkit.settings import Settings, address

pytestmark = pytest.mark.xdist_group("openbao")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A prefix of this test's own."""
    return "t" + hashlib.sha256(request.node.name.encode()).hexdigest()[:10]


@pytest.fixture
def vault(openbao: OpenBao, name: str, tmp_path: Path) -> Vault:
    """The vault of a keeper."""
    return entered(openbao, openbao.role(tmp_path, name=name), name)


@pytest.fixture
def keys(vault: Vault) -> Keyring:
    """A keyring with one key."""
    ring = Keyring(VaultShelf(vault))
    ring.create("demo")
    return ring


def entered(server: OpenBao, login: Path, name: str, **rest: object) -> Vault:
    """A fresh client with this login."""
    where = address("secrets_url", server.url(login, name=name))
    return Vault(where, login=login, ca=server.authority.ca, **rest)  # type: ignore[arg-type]


def shelf_of(keys: Keyring) -> VaultShelf:
    """The keyring's shelf."""
    assert isinstance(keys.shelf, VaultShelf)
    return keys.shelf


def sealed(keys: Keyring, plain: bytes, name: str = "demo") -> bytes:
    """Ciphertext of `plain`."""
    sink = io.BytesIO()
    keys.encrypt(name, io.BytesIO(plain), sink, bound_to=b"id")
    return sink.getvalue()


def opened(keys: Keyring, cipher: bytes, name: str = "demo") -> bytes:
    """Plaintext of `cipher`."""
    return keys.decrypt(name, io.BytesIO(cipher), bound_to=b"id").read()


@contextlib.contextmanager
def closed(server: OpenBao) -> Iterator[None]:
    """The server sealed for a while."""
    server.seal()
    try:
        yield
    finally:
        server.unseal()


# --- sealed -----------------------------------------------------------------------------------


def test_a_sealed_vault_refuses_everything_and_nothing_is_kept(
    openbao: OpenBao, keys: Keyring, vault: Vault
) -> None:
    cipher, secrets = sealed(keys, b"x"), VaultSecrets(vault)
    secrets.put("lake", Secret("7vXq-rm2k"))
    signer = keys.signer()
    steps: list[Callable[[], object]] = [
        lambda: opened(keys, cipher), lambda: sealed(keys, b"x"), lambda: keys.create("new"), keys.names,
        keys.fingerprints, keys.signer, lambda: signer.sign(b"x"), lambda: secrets.get("lake"),
        lambda: secrets.put("lake", Secret("other-value")), lambda: keys.rotate("demo"), lambda: keys.destroy("demo"),
    ]  # fmt: skip
    with closed(openbao):
        assert vault.sealed()
        for step in steps:
            with pytest.raises(SecretUnavailable, match="is sealed: an operator must unseal it"):
                step()
    assert not vault.sealed()
    assert opened(keys, cipher) == b"x"
    assert secrets.get("lake").reveal() == "7vXq-rm2k"
    assert keys.names() == ["demo"]


def test_sealed_between_wrap_and_write(
    openbao: OpenBao, keys: Keyring, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = vault.write

    def late(path: str, content: object, *, version: int) -> int:
        openbao.seal()
        return write(path, content, version=version)  # type: ignore[arg-type]

    monkeypatch.setattr(vault, "write", late)
    try:
        for step in (lambda: keys.create("glbx"), lambda: keys.rotate("demo")):
            with pytest.raises(SecretUnavailable, match="is sealed"):
                step()
            openbao.unseal()
    finally:
        openbao.unseal()
    monkeypatch.undo()
    assert keys.names() == ["demo"]
    keys.create("glbx")
    assert opened(keys, sealed(keys, b"x", "glbx"), "glbx") == b"x"
    assert opened(keys, sealed(keys, b"x")) == b"x"
    keys.rotate("demo")
    assert opened(keys, sealed(keys, b"x")) == b"x"


def test_sealed_in_the_middle_of_a_destruction(
    openbao: OpenBao, keys: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    cipher, transit = sealed(keys, b"x"), shelf_of(keys).transit
    delete = transit.delete
    monkeypatch.setattr(transit, "delete", lambda name: (openbao.seal(), delete(name)))
    try:
        with pytest.raises(SecretUnavailable, match="is sealed"):
            keys.destroy("demo")
    finally:
        openbao.unseal()
    monkeypatch.undo()
    with pytest.raises(SecretUnavailable, match="key 'demo' was destroyed on"):
        keys.create("demo")
    keys.destroy("demo")
    with pytest.raises(SecretUnavailable, match="key 'demo' was destroyed on"):
        opened(keys, cipher)
    assert keys.names() == []


def test_raft_begins_sealed_and_keeps_its_keys(authority: Authority, tmp_path: Path) -> None:
    with serving(tmp_path / "raft", authority, raft=True) as server:
        login = server.role(tmp_path)
        keys = open_keyring(Settings(tmp_path, secrets_url=server.url(login)))
        keys.create("demo")
        cipher = sealed(keys, b"x")
        server.stop()
        with pytest.raises(SecretUnavailable, match="cannot be reached"):
            opened(keys, cipher)
        server.start()
        with pytest.raises(SecretUnavailable, match="is sealed"):
            opened(keys, cipher)
        server.unseal()
        assert opened(keys, cipher) == b"x"


# --- not the vault ----------------------------------------------------------------------------


def test_another_authority_is_not_trusted(
    openbao: OpenBao, vault: Vault, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Authority(tmp_path / "other")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(openbao.authority.ca))
    monkeypatch.setenv("VAULT_CACERT", str(openbao.authority.ca))
    monkeypatch.setenv("VAULT_SKIP_VERIFY", "true")
    wary = Vault(vault.line._address, login=vault.line._login, ca=other.ca)
    for step in (lambda: wary.find("keys/demo"), wary.sealed, wary.tls_expires):
        with pytest.raises(SecretUnavailable, match="is not trusted: its certificate is not one"):
            step()
    assert 0.5 < (vault.tls_expires().timestamp() - time.time()) / 86400 < 1.5


def test_the_environment_cannot_point_it_elsewhere(keys: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("VAULT_ADDR", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "https://127.0.0.1:1")
    monkeypatch.setenv("VAULT_TOKEN", "hvs.of-somebody-else")
    vault = shelf_of(keys).vault
    fresh = Vault(vault.line._address, login=vault.line._login, ca=vault.line._ca)
    assert fresh.names("keys") == ["demo"]


@pytest.mark.parametrize("listens", [False, True])
def test_nobody_answers(listens: bool, tmp_path: Path, authority: Authority) -> None:
    login = tmp_path / "login.json"
    login.touch(mode=0o600)
    login.write_text('{"role_id": "r", "secret_id": "s-9d0p-ws81-77aa"}')
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if listens else free_port()
        line = Vault(
            address("secrets_url", f"vault://127.0.0.1:{port}/rk"), login=login, ca=authority.ca
        ).line
        line._timeout = 0.3
        with pytest.raises(SecretUnavailable, match="cannot be reached") as caught:
            line.ask("reading x", len)
    assert "9d0p" not in "".join(traceback.format_exception(caught.value))


class Crooked(http.server.BaseHTTPRequestHandler):
    """Sends whoever asks elsewhere, or quotes what it was sent."""

    seen: list[tuple[str, str]] = []  # noqa: RUF012 - one server, one test

    def do_POST(self) -> None:
        """Lend a token."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        auth = {"client_token": "hvs.lent-7f3a9c", "lease_duration": 60, "renewable": False}
        self._answer(200, json.dumps({"auth": auth, "quoted": body}))

    def do_GET(self) -> None:
        """Redirect, or fail with everything it knows in the text."""
        self.seen.append((self.path, self.headers.get("X-Vault-Token", "")))
        if "moved" in self.path:
            self.send_response(307)
            self.send_header("Location", f"https://127.0.0.1:{self.server.server_address[1]}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._answer(500, json.dumps({"errors": [f"token {self.headers['X-Vault-Token']} is odd"]}))

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words: object) -> None:
        """Say nothing."""


def test_no_redirect_is_followed_and_no_error_page_repeated(authority: Authority, tmp_path: Path) -> None:
    (login := tmp_path / "login.json").touch(mode=0o600)
    login.write_text('{"role_id": "r", "secret_id": "s-9d0p-ws81-77aa"}')
    certificate = authority.issue("crooked")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Crooked)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.path, certificate.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        where = address("secrets_url", f"vault://127.0.0.1:{server.server_address[1]}/rk")
        vault = Vault(where, login=login, ca=authority.ca)
        with pytest.raises(SecretUnavailable, match="points elsewhere, and no redirect is followed"):
            vault.find("moved")
        with pytest.raises(SecretUnavailable, match="has a fault of its own") as caught:
            vault.find("odd")
    finally:
        server.shutdown()
        server.server_close()
    assert [path for path, _ in Crooked.seen if "elsewhere" in path] == []
    assert "7f3a9c" not in "".join(traceback.format_exception(caught.value))


# --- leases -----------------------------------------------------------------------------------


def test_a_revoked_token_is_replaced_and_a_revoked_login_is_refused(
    openbao: OpenBao, keys: Keyring, vault: Vault
) -> None:
    cipher = sealed(keys, b"x")
    lent = vault.line._lease
    assert lent is not None
    openbao.call("post", "auth/token/revoke", token=lent.token.reveal())
    assert opened(keys, cipher) == b"x"
    assert vault.line._lease is not None
    assert vault.line._lease.token != lent.token
    openbao.revoke_login(vault.line._login)
    assert opened(keys, cipher) == b"x"  # what was lent is good until its end
    openbao.call("post", "auth/token/revoke", token=vault.line._lease.token.reveal())
    with pytest.raises(
        SecretUnavailable, match=r"refuses the login: the role in .* wrong, expired or revoked"
    ):
        opened(keys, cipher)
    assert vault.line._lease is None


def test_a_lease_is_prolonged_in_time_and_never_used_past_its_end(
    openbao: OpenBao, name: str, tmp_path: Path
) -> None:
    now = [0.0]
    login = openbao.role(tmp_path, name=name, ttl="90s", max_ttl="1h")
    vault = entered(openbao, login, name, clock=lambda: now[0])
    vault.names("keys")
    first = vault.line._lease
    now[0] = 59.0
    vault.names("keys")
    assert vault.line._lease is first
    now[0] = 61.0
    vault.names("keys")
    longer = vault.line._lease
    assert first is not None
    assert longer is not None
    assert (longer.token == first.token, longer.began) == (True, 61.0)
    now[0] = 152.0
    vault.names("keys")
    assert vault.line._lease is not None
    assert vault.line._lease.token != first.token


def test_a_lease_that_ended_at_the_server(openbao: OpenBao, name: str, tmp_path: Path) -> None:
    login = openbao.role(tmp_path, name=name, ttl="1s", max_ttl="1s")
    stopped = entered(openbao, login, name, clock=lambda: 0.0)  # a clock that does not see it
    stopped.names("keys")
    first = stopped.line._lease
    time.sleep(1.3)
    assert stopped.names("keys") == []
    assert first is not None
    assert stopped.line._lease is not None
    assert stopped.line._lease.token != first.token


def test_a_forked_process_has_a_line_of_its_own(keys: Keyring, vault: Vault) -> None:
    token = vault.line._lease.token if vault.line._lease else None
    child = os.fork()
    if child == 0:
        good = vault.names("keys") == ["demo"] and vault.line._lease is not None
        os._exit(0 if good and vault.line._lease.token != token else 1)  # type: ignore[union-attr]
    assert os.waitpid(child, 0)[1] == 0
    assert vault.names("keys") == ["demo"]


# --- races, swaps and ends ---------------------------------------------------------------------


def test_the_second_writer_is_told(keys: Keyring, vault: Vault) -> None:
    secrets = VaultSecrets(vault)
    seen = secrets.put("lake", Secret("first-value"), version=0)
    secrets.put("lake", Secret("second-value"), version=seen)
    with pytest.raises(IntegrityError, match="secret 'lake' is at version 2, not 1: somebody else wrote it"):
        secrets.put("lake", Secret("third-value"), version=seen)
    with pytest.raises(IntegrityError, match="somebody else wrote it; it is no longer version 1"):
        vault.write("secrets/lake", {"value": "third-value"}, version=1)
    assert secrets.get("lake") == Secret("second-value")
    secrets.remove("lake")
    assert (secrets.names(), secrets.version("lake")) == ([], 0)


def test_makers_that_race_share_one_key(openbao: OpenBao, vault: Vault, name: str) -> None:
    rings = [Keyring(VaultShelf(entered(openbao, vault.line._login, name))) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda ring: ring.create("raced"), rings))
        ciphers = list(pool.map(lambda ring: sealed(ring, b"x", "raced"), rings))
        signers = list(pool.map(lambda ring: ring.signer().public_hex, rings))
    assert {opened(rings[0], cipher, "raced") for cipher in ciphers} == {b"x"}
    assert len(set(signers)) == 1


def test_rewrapping_touches_no_data_and_retires_the_old_envelope(keys: Keyring, vault: Vault) -> None:
    cipher = sealed(keys, b"x" * 100_000)
    before, version = vault.read("keys/demo")
    keys.rotate("demo")
    after, _ = vault.read("keys/demo")
    assert version_of(ciphertext_in(after["keyset"])) == version_of(ciphertext_in(before["keyset"])) + 1
    assert opened(keys, cipher) == b"x" * 100_000
    vault.write("keys/demo", before, version=version + 1)
    with pytest.raises(SecretUnavailable, match="what it was sent is not what that key made"):
        opened(keys, cipher)


def test_swapped_keysets_do_not_open(openbao: OpenBao, keys: Keyring, vault: Vault) -> None:
    keys.create("glbx")
    cipher = sealed(keys, b"x")
    (demo, _), (glbx, _) = vault.read("keys/demo"), vault.read("keys/glbx")
    for path, content in (("demo", glbx), ("glbx", demo)):  # by an administrator of the store
        openbao.call("post", f"secret/data/{vault.name}/keys/{path}", data=content)
    for name in ("demo", "glbx"):
        with pytest.raises(SecretUnavailable, match=f"opening under {vault.name}.{name}"):
            opened(keys, cipher, name)
    odd = with_ciphertext(demo["keyset"], "vault:v1:" + base64.b64encode(bytes(60)).decode())
    openbao.call("post", f"secret/data/{vault.name}/keys/demo", data={"keyset": odd})
    with pytest.raises(SecretUnavailable, match="what it was sent is not what that key made"):
        opened(keys, cipher)


def test_a_destroyed_key_does_not_come_back_with_its_envelope(
    openbao: OpenBao, keys: Keyring, vault: Vault
) -> None:
    keys.create("other")
    cipher, other = sealed(keys, b"x"), sealed(keys, b"y", "other")
    old, _ = vault.read("keys/demo")
    keys.destroy("demo")
    keys.destroy("demo")
    assert list(keys.destroyed()) == ["demo"]
    assert opened(keys, other, "other") == b"y"
    with pytest.raises(SecretUnavailable, match="key 'demo' was destroyed on"):
        keys.create("demo")
    openbao.call("post", f"secret/data/{vault.name}/keys/demo", data=old)
    assert keys.names() == ["other"]
    with pytest.raises(SecretUnavailable, match="key 'demo' was destroyed on"):
        opened(keys, cipher)
    openbao.call("delete", f"secret/metadata/{vault.name}/destroyed/demo")  # and the tombstone goes too
    with pytest.raises(SecretUnavailable, match="the key is gone"):
        opened(keys, cipher)
    openbao.call("post", f"transit/keys/{vault.name}.demo", type="aes256-gcm96")
    with pytest.raises(SecretUnavailable, match="what it was sent is not what that key made"):
        opened(keys, cipher)


class Killed(BaseException):
    """What a kill is to the code that it hits."""


def test_killed_after_the_tombstone_nothing_is_opened_or_encrypted(
    keys: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.create("other")
    cipher = sealed(keys, b"x")

    def kill(name: str) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shelf_of(keys).transit, "delete", kill)
        with pytest.raises(Killed):
            keys.destroy("demo")
    steps: list[Callable[[], object]] = [
        lambda: opened(keys, cipher),
        lambda: sealed(keys, b"y"),
        lambda: keys.rotate("demo"),
        lambda: keys.create("demo"),
    ]
    for step in steps:
        with pytest.raises(SecretUnavailable, match="key 'demo' was destroyed on"):
            step()
    assert (keys.names(), list(keys.destroyed())) == (["other"], ["demo"])
    keys.rotate()  # the others go on
    assert len(keys.fingerprints()) > 3
    keys.destroy("demo")
    assert shelf_of(keys).transit.describe("demo") is None


def test_a_key_destroyed_while_it_is_made_stays_destroyed(
    openbao: OpenBao, keys: Keyring, vault: Vault, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Keyring(VaultShelf(entered(openbao, vault.line._login, name)))
    transit = shelf_of(keys).transit
    make = transit.create

    def late(key: str) -> None:
        other.create(key)
        other.destroy(key)
        make(key)

    monkeypatch.setattr(transit, "create", late)
    with pytest.raises(SecretUnavailable, match="key 'raced' was destroyed on"):
        keys.create("raced")
    assert transit.describe("raced") is None
    assert vault.find("keys/raced") is None
    with pytest.raises(SecretUnavailable, match="key 'raced' was destroyed on"):
        sealed(other, b"x", "raced")


@pytest.mark.parametrize("when", ["before it looks", "after it looked"])
def test_a_late_rotation_brings_no_old_version_back(
    when: str, openbao: OpenBao, keys: Keyring, vault: Vault, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Keyring(VaultShelf(entered(openbao, vault.line._login, name)))
    transit, cipher, rotated = shelf_of(keys).transit, sealed(keys, b"x"), list[str]()
    step = "retire" if when == "before it looks" else "describe"
    real = getattr(transit, step)

    def late(*given: object) -> object:
        seen = real(*given) if step == "describe" else None
        if not rotated:
            rotated.append("twice")
            other.rotate("demo")
            other.rotate("demo")
        return seen if step == "describe" else real(*given)

    monkeypatch.setattr(transit, step, late)
    keys.rotate("demo")
    monkeypatch.undo()
    found = transit.describe("demo")
    assert found is not None
    assert (found["min_decryption_version"], found["latest_version"]) == (4, 4)
    assert opened(keys, cipher) == b"x"


def test_a_replaced_signing_key_is_noticed(openbao: OpenBao, keys: Keyring, vault: Vault) -> None:
    signer = keys.signer()
    signature = signer.sign(b"x")
    keys.rotate_signer()
    renewed = keys.signer()
    assert renewed.trusted == (signer.public_hex, renewed.public_hex)
    assert signed_by(renewed.trusted[0], b"x", signature)
    assert signed_by(renewed.public_hex, b"x", renewed.sign(b"x"))
    assert signed_by(signer.public_hex, b"y", signer.sign(b"y"))  # opened before, it signs as who it is
    key = f"transit/keys/{vault.name}.ledger"
    openbao.call("post", f"{key}/config", deletion_allowed=True)
    openbao.call("delete", key)
    with pytest.raises(SecretUnavailable, match=r"holds no signing key .*\.ledger"):
        keys.signer()
    openbao.call("post", key, type="ed25519")
    with pytest.raises(IntegrityError, match="not those that the vault noted: somebody replaced the key"):
        keys.signer()


# --- what a role may ---------------------------------------------------------------------------


def test_a_worker_uses_every_key_and_changes_nothing(
    openbao: OpenBao, keys: Keyring, vault: Vault, name: str, tmp_path: Path
) -> None:
    VaultSecrets(vault).put("lake", Secret("7vXq-rm2k-9d0p"))
    keys.signer()
    cipher, before = sealed(keys, b"x"), openbao.call("get", f"transit/keys/{name}.demo")["data"]
    there = entered(openbao, openbao.role(tmp_path, name=name, role="worker"), name)
    worker, secrets = Keyring(VaultShelf(there)), VaultSecrets(there)
    assert opened(worker, cipher) == b"x"
    assert opened(keys, sealed(worker, b"y")) == b"y"
    assert signed_by(keys.signer().public_hex, b"x", worker.signer().sign(b"x"))
    assert secrets.get("lake").reveal() == "7vXq-rm2k-9d0p"
    worker.create("demo")
    assert len(worker.fingerprints()) > 3
    for step in (
        lambda: worker.create("new"),
        lambda: worker.rewrap("demo"),
        lambda: worker.rotate("demo"),
        worker.rotate_signer,
        lambda: worker.destroy("demo"),
        lambda: secrets.put("lake", Secret("other-value")),
        lambda: secrets.remove("lake"),
        lambda: there.destroy("keys/demo"),
        lambda: VaultShelf(there).transit.delete("demo"),
    ):
        with pytest.raises(SecretUnavailable, match="does not permit it to this role"):
            step()
    assert openbao.call("get", f"transit/keys/{name}.demo")["data"] == before


def test_a_prefix_opens_no_other_prefix(
    openbao: OpenBao, keys: Keyring, vault: Vault, name: str, tmp_path: Path
) -> None:
    """`acme` is not `acme-2`, whichever way the names are joined."""
    longer = f"{name}-2"
    other = Keyring(VaultShelf(entered(openbao, openbao.role(tmp_path, name=longer), longer)))
    other.create("demo")
    trespasser = Vault(
        replace(vault.line._address, path=f"/{longer}"), login=vault.line._login, ca=openbao.authority.ca
    )
    for step in (
        lambda: trespasser.find("keys/demo"),
        lambda: VaultShelf(trespasser).transit.describe("demo"),
        lambda: VaultShelf(trespasser).transit.aead("demo").encrypt(b"x", b""),
    ):
        with pytest.raises(SecretUnavailable, match="does not permit it to this role"):
            step()


def test_a_login_that_others_may_read_is_not_used(vault: Vault) -> None:
    vault.line._login.chmod(0o640)
    with pytest.raises(SecretUnavailable, match="has mode 0640 and others may read it; it must be 0600"):
        vault.names("keys")


# --- nothing is shown --------------------------------------------------------------------------


def test_nothing_secret_is_shown(
    openbao: OpenBao, vault: Vault, keys: Keyring, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    for noisy in ("hvac", "urllib3", "requests"):
        logging.getLogger(noisy).setLevel(logging.DEBUG)
    user, password = (
        "-".join(["reader", "of", "lake"]),
        "-".join(["7vXq", "rm2k", "9d0p", "ws81"]),
    )  # not in the source
    secrets = open_secrets(Settings(tmp_path, secrets_url=openbao.url(vault.line._login, name=vault.name)))
    secrets.put("lake", {"user": Secret(user), "password": Secret(password)})
    signer = keys.signer()
    shown = [
        repr(x) for x in (vault, vault.line, vars(vault.line), keys, signer, secrets, secrets.fields("lake"))
    ]
    shown += [str(vars(x)) for x in (vault, keys, shelf_of(keys), signer)]
    pieces = {*keys.fingerprints(), *secrets.pieces(), password.encode(), user.encode()}
    login = json.loads(vault.line._login.read_text())
    assert vault.line._lease is not None
    pieces |= {login["secret_id"].encode(), vault.line._lease.token.reveal().encode()}

    def fails(step: Callable[[], object]) -> None:
        with pytest.raises((SecretUnavailable, IntegrityError)) as caught:
            step()
        said = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        said.stack[:2] = []  # those of this test
        shown.append("".join(said.format()))

    fails(lambda: secrets.put("lake", Secret(password), version=9))
    fails(lambda: secrets.get("lake"))
    fails(lambda: keys.decrypt("nothing", io.BytesIO(b""), bound_to=b""))
    with closed(openbao):
        fails(lambda: secrets.put("lake", Secret(password)))
    openbao.revoke_login(vault.line._login)
    openbao.call("post", "auth/token/revoke", token=vault.line._lease.token.reveal())
    fails(keys.signer)
    shown += [record.getMessage() for record in caplog.records]
    assert any("POST" in text for text in shown)  # the logs were on
    assert [text for text in shown for piece in pieces if piece in text.encode()] == []
    for private in (password, login["secret_id"]):
        assert private not in openbao.audit()
