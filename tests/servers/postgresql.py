"""PostgreSQL on a free port of this machine: TLS, SCRAM, fsync on, its own administrator."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tls import Authority

from researchkit.security.secret import Secret

BIN = Path("/usr/lib/postgresql/15/bin")
HBA = "hostssl all all 127.0.0.1/32 scram-sha-256\n"
CONF = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
ssl = on
ssl_cert_file = 'server.pem'
ssl_key_file = 'server.key'
password_encryption = 'scram-sha-256'
logging_collector = off
"""


@dataclass(frozen=True)
class PostgreSQL:
    """A running server."""

    folder: Path  # its data, its log
    port: int
    ca: Path  # whom its clients trust
    admin: Mapping[str, Secret] = field(repr=False)  # "user" and "password" of a superuser

    def url(self, database: str = "postgres") -> str:
        """What the ledger is opened with."""
        return f"postgresql://127.0.0.1:{self.port}/{database}?ca={self.ca}"

    def connect(self, database: str = "postgres", **who: Any) -> Any:
        """A connection of its own, by default the administrator's, every statement its own transaction."""
        import psycopg

        asked = {k: v.reveal() for k, v in self.admin.items()} | who
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=database,
            sslmode="verify-full",
            sslrootcert=str(self.ca),
            autocommit=True,
            **asked,
        )

    def run(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run one statement as the administrator."""
        with self.connect(database) as connection:
            found = connection.execute(statement)
            return list(found.fetchall()) if found.description else []

    def control(self, *words: str) -> None:
        """Ask `pg_ctl` to start, stop or restart it, and wait until it has."""
        log = self.folder / "log"
        _as_owner(BIN / "pg_ctl", "-D", self.folder / "data", "-w", "-s", "-l", log, *words)


def _as_owner(*words: str | Path) -> None:
    """Run a program of PostgreSQL, which refuses to run as root."""
    owner = "postgres" if os.geteuid() == 0 else None
    done = subprocess.run(
        [str(w) for w in words],
        user=owner,
        group=owner,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed:\n{done.stdout.decode()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(folder: Path, authority: Authority) -> Iterator[PostgreSQL]:
    """Make a cluster, start it, and take it away afterwards."""
    place = Path(tempfile.mkdtemp(prefix="pg-"))  # pytest's own folders are closed to other users
    uid = pwd.getpwnam("postgres").pw_uid if os.geteuid() == 0 else os.geteuid()
    os.chown(place, uid, -1)
    password = Secret("admin-of-the-tests")
    (place / "password").write_text(password.reveal())
    os.chown(place / "password", uid, -1)
    how = ("--no-sync", "-k", "-E", "UTF8", "--locale=C", "-A", "scram-sha-256", "-U", "admin")
    try:
        _as_owner(BIN / "initdb", *how, "--pwfile", place / "password", "-D", place / "data")
        issued = authority.issue("postgresql")
        for source, name in ((issued.path, "server.pem"), (issued.key, "server.key")):
            shutil.copy(source, place / "data" / name)
            (place / "data" / name).chmod(0o600)
            os.chown(place / "data" / name, uid, -1)
        port = _free_port()
        with (place / "data" / "postgresql.conf").open("a") as conf:
            conf.write(f"{CONF}port = {port}\n")
        (place / "data" / "pg_hba.conf").write_text(HBA)
        server = PostgreSQL(place, port, authority.ca, {"user": Secret("admin"), "password": password})
        server.control("start")
        try:
            yield server
        finally:
            server.control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(place, ignore_errors=True)
