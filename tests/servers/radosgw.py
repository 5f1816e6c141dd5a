"""Ceph's S3 server with Object Lock on one machine: a monitor, a manager, an in-memory disk and a gateway behind TLS."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

from tls import Authority

PROGRAMS = (
    "ceph",
    "ceph-authtool",
    "ceph-mgr",
    "ceph-mon",
    "ceph-osd",
    "monmaptool",
    "radosgw",
    "radosgw-admin",
)
CONFIG = """
[global]
fsid = {fsid}
mon initial members = a
mon host = v2:127.0.0.1:{mon},v1:127.0.0.1:{mon1}
public network = 127.0.0.0/8
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv4 = true
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
mon warn on pool no redundancy = false
osd crush chooseleaf type = 0
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon max pg per osd = 1000
keyring = {folder}/keyring
run dir = {folder}
admin socket =
log file = {folder}/$name.log
pid file =
mon data avail crit = 1
mon data avail warn = 1
auth allow insecure global id reclaim = false
[mon]
mon data = {folder}/mon
[mgr]
mgr data = {folder}/mgr
mgr initial modules =
mgr disabled modules = *
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd memory target = 939524096
[client.rgw.a]
rgw frontends = beast ssl_endpoint=127.0.0.1:{port} ssl_certificate={certificate.path} ssl_private_key={certificate.key}
rgw data = {folder}/rgw
rgw thread pool size = 32
"""
CAPS = {  # who may do what inside the cluster
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *", "mds", "allow *"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd"),
    "mgr.x": ("mon", "allow profile mgr", "osd", "allow *", "mds", "allow *"),
    "client.rgw.a": ("mon", "allow rw", "osd", "allow rwx"),
}


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens to, all different."""
    with contextlib.ExitStack() as taken:
        return [
            int(taken.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1])
            for _ in range(count)
        ]


@dataclass(eq=False)
class Radosgw:
    """One cluster; `admin` speaks as the administrator of its buckets."""

    folder: Path
    authority: Authority
    access_key: str = field(default_factory=lambda: secrets.token_hex(10).upper())
    secret_key: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)
    port: int = 0
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        """Whom to trust."""
        return self.authority.ca

    def start(self) -> None:
        """Make the cluster and wait until it answers."""
        mon, mon1, self.port = free_ports(3)
        for name in ("mon", "mgr", "osd", "rgw"):
            (self.folder / name).mkdir(parents=True)
        certificate, fsid = self.authority.issue("radosgw"), str(uuid.uuid4())
        config = CONFIG.format(
            folder=self.folder, fsid=fsid, mon=mon, mon1=mon1, port=self.port, certificate=certificate
        )
        (self.folder / "ceph.conf").write_text(config)
        keyring, monmap = self.folder / "keyring", self.folder / "monmap"
        for number, (name, caps) in enumerate(CAPS.items()):
            given = [word for pair in zip(caps[::2], caps[1::2], strict=True) for word in ("--cap", *pair)]
            first = ["--create-keyring"] if number == 0 else []
            self._run("ceph-authtool", *first, keyring, "--gen-key", "-n", name, *given)
        places = f"[v2:127.0.0.1:{mon},v1:127.0.0.1:{mon1}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", places, "--clobber", monmap)
        self._run("ceph-mon", *self._conf, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._daemon("ceph-mon", "-i", "a")
        self._run("ceph", *self._conf, "mon", "stat")
        self._daemon("ceph-mgr", "-i", "x")
        disk = str(uuid.uuid4())
        self._run("ceph", *self._conf, "osd", "new", disk, "0")
        self._run("ceph-osd", *self._conf, "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._daemon("ceph-osd", "-i", "0")
        self._until(lambda: b"1 up" in self._run("ceph", *self._conf, "osd", "stat"))
        self._daemon("radosgw", "-n", "client.rgw.a")
        self._until(self._answers)
        self._run(
            "radosgw-admin", *self._conf, "user", "create", "--uid=rk", "--display-name=rk",
            f"--access-key={self.access_key}", f"--secret-key={self.secret_key}",
        )  # fmt: skip

    @property
    def _conf(self) -> tuple[str, str]:
        return "-c", str(self.folder / "ceph.conf")

    def _run(self, program: str, *words: object) -> bytes:
        """Run one step of the set-up."""
        done = subprocess.run([program, *map(str, words)], capture_output=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr.decode(errors='replace')[-500:]}")
        return done.stdout

    def _daemon(self, program: str, *words: str) -> None:
        """Start a part of the cluster in the foreground of its own."""
        with (self.folder / f"{program}.out").open("wb") as out:
            command = [program, *self._conf, *words, "-f"]
            self._processes.append(
                subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
            )

    def _until(self, ready: Any, seconds: float = 90) -> None:
        """Wait for something to become true, and for nobody who has died."""
        deadline = time.monotonic() + seconds
        while not ready():
            dead = [p.args for p in self._processes if p.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise RuntimeError(f"the cluster in {self.folder} did not start: {dead or 'too slow'}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        """Whether the gateway speaks HTTP."""
        trusting = ssl.create_default_context(cafile=self.ca)
        asking = HTTPSConnection("127.0.0.1", self.port, timeout=2, context=trusting)
        try:
            asking.request("GET", "/")
            return asking.getresponse().status > 0
        except OSError:
            return False
        finally:
            asking.close()

    def stop(self) -> None:
        """End every part, the gateway first."""
        for process in self._processes[::-1]:
            process.kill()
            process.wait()
        self._processes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- as the administrator ---

    @functools.cached_property
    def admin(self) -> Any:
        """The library that everybody uses, with the administrator's keys."""
        from botocore.config import Config
        from botocore.session import Session

        return Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            verify=str(self.ca),
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def bucket(self, *, locked: bool = True) -> str:
        """A new bucket with Object Lock, or an ordinary one."""
        name = f"raw-{secrets.token_hex(4)}"
        self.admin.create_bucket(Bucket=name, ObjectLockEnabledForBucket=locked)
        return name


@contextlib.contextmanager
def serving(folder: Path, authority: Authority) -> Iterator[Radosgw]:
    """A running cluster, gone afterwards."""
    missing = [p for p in PROGRAMS if shutil.which(p) is None]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} not found; make system installs them")
    os.environ.pop("CEPH_CONF", None)
    cluster = Radosgw(folder / "ceph", authority)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
