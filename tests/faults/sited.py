"""Workspaces whose ledger, raw zone and keys lie on real servers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

WRITER = {"user": "writer", "password": "writer-of-the-tests"}
NUMBERS = count(1)


@dataclass
class Site:
    """Three servers, and a way to make settings that name them."""

    openbao: Any
    postgresql: Any
    radosgw: Any
    place: Path  # for logins

    def settings(self) -> dict[str, str]:
        """A fresh database, prefix of keys and bucket, with the secrets that lead to them."""
        from researchkit.security.installation import install
        from researchkit.security.secret import Secret
        from researchkit.security.secrets import open_secrets
        from researchkit.settings import read

        name = f"killed{next(NUMBERS)}"
        self.postgresql.run(f"CREATE DATABASE {name}")
        install(self.postgresql.url(name), self.postgresql.admin, {k: Secret(v) for k, v in WRITER.items()})
        login = self.openbao.role(self.place, name=name)
        made = {
            "secrets_url": self.openbao.url(login, name=name),
            "ledger_url": f"{self.postgresql.url(name)}&secret=ledger",
            "raw_url": f"s3://{self.radosgw.bucket()}/zone?endpoint={self.radosgw.endpoint}"
            f"&ca={self.radosgw.ca}&secret=bucket&retention=1",
        }
        secrets = open_secrets(read(self.place / "nowhere", made))
        secrets.put("ledger", {k: Secret(v) for k, v in WRITER.items()})
        pair = {"access_key": self.radosgw.access_key, "secret_key": self.radosgw.secret_key}
        secrets.put("bucket", {k: Secret(v) for k, v in pair.items()})
        return made
