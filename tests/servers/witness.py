"""A witness on a free port of this machine, in a process of its own, over TLS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tls import Authority

from researchkit.security.cosigner import Witness
from researchkit.security.witness import WitnessClient
from researchkit.security.witness_host import found_witness, trust_log, witness_in
from researchkit.settings import Address

NAME = "witness.example/tests"
SERVE = """
import resource, sys
from pathlib import Path
from researchkit.security.witness_host import serve
folder, certificate, key, most, port = sys.argv[1:]
if int(most):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
serve(Path(folder), certificate=Path(certificate), key=Path(key), port=int(port),
      ready=lambda port: print(port, flush=True))
"""


class WitnessServer:
    """A witness that can be started, killed and asked."""

    def __init__(self, folder: Path, authority: Authority, name: str = NAME) -> None:
        """Found the witness in `folder`."""
        self.folder, self.ca, self.name, self.port = folder / "witness", authority.ca, name, 0
        self._pair = authority.issue(folder.name)
        self.key = found_witness(self.folder, name)
        self._process: subprocess.Popen[str] | None = None

    def start(
        self,
        environment: Mapping[str, str] | None = None,  # on top of this process's
        *,
        most: int = 0,  # bytes that a file may hold, as on a full disk; 0: no limit
    ) -> WitnessServer:
        """Serve, and return once connections are accepted."""
        asked = [self.folder, self._pair.path, self._pair.key, most, self.port]
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *map(str, asked)],
            env=os.environ | dict(environment or {}),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def stop(self) -> int:
        """End the process and return its code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for the process to end by itself."""
        assert self._process is not None
        code = self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    @property
    def address(self) -> Address:
        """As the settings give it."""
        options = {"key": self.key, "name": self.name, "ca": str(self.ca)}
        return Address("https", "127.0.0.1", self.port, "", options)

    def client(self) -> WitnessClient:
        """Somebody who knows nothing of earlier conversations."""
        return WitnessClient(self.address, self.ca)

    def trust(self, origin: str, public_hex: str) -> None:
        """Tell the witness of a log."""
        trust_log(self.folder, origin, public_hex)

    def memory(self) -> Witness:
        """What it remembers, read beside it."""
        return witness_in(self.folder)


@contextmanager
def serving(folder: Path, authority: Authority) -> Iterator[WitnessServer]:
    """A witness that listens, stopped afterwards."""
    server = WitnessServer(folder, authority).start()
    try:
        yield server
    finally:
        server.stop()
