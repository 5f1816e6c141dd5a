"""A workspace of keys, secrets, raw zone and ledger, with nothing above them, for whoever attacks or kills it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from researchkit.context import Context, Principal
from researchkit.settings import Settings, read

WITNESS = "witness"  # a folder in the workspace; elsewhere in earnest
TABLE = "OWN.TEST/ohlcv-1d"
ME = Context(Principal("tester", ("data-engineer", "quant", "custodian")))
MAY = ("ingest", "read", "open_seal", "retain", "hold", "delete")


@dataclass
class Vaulted:
    """The parts, opened when they are first used."""

    settings: Settings

    @property
    def root(self) -> Path:
        """The workspace's folder."""
        return self.settings.root

    @cached_property
    def keys(self) -> Any:
        """The keyring."""
        from researchkit.security.keys import open_keyring

        return open_keyring(self.settings)

    @cached_property
    def secrets(self) -> Any:
        """The credentials."""
        from researchkit.security.secrets import open_secrets

        return open_secrets(self.settings)

    @cached_property
    def witness(self) -> Any:
        """Who countersigns, None for nobody."""
        from researchkit.security.witness import WitnessClient, open_witness
        from researchkit.settings import address_of

        if (self.root / WITNESS).is_dir():  # it lives in this process, and dies with it
            return WitnessClient(address_of(self.settings, "witness_url"), ask=self._ask_here)
        return open_witness(self.settings)

    def _ask_here(self, method: str, path: str, body: bytes | None) -> Any:
        """Ask the witness in this process what would be asked over the network."""
        from urllib.parse import parse_qs, urlsplit

        from sqlalchemy.exc import SQLAlchemyError

        from researchkit.errors import WorkspaceError
        from researchkit.security.cosigner import Answer, read_request
        from researchkit.security.witness_host import witness_in

        try:
            witness = witness_in(self.root / WITNESS)
            if method == "POST":
                return witness.add(*read_request(body or b""))
            note = witness.latest(parse_qs(urlsplit(path).query)["origin"][0])
            return Answer(404, "") if note is None else Answer(200, note)
        except (SQLAlchemyError, WorkspaceError):  # as the service does
            return Answer(503, "the witness cannot remember now")

    @cached_property
    def ledger(self) -> Any:
        """The record."""
        from researchkit.security.ledger import open_ledger

        return open_ledger(self.settings, self.keys.signer, lambda: self.secrets, witness=self.witness)

    @cached_property
    def registry(self) -> Any:
        """The register of objects."""
        from researchkit.data.registry import Registry
        from researchkit.settings import database_of

        return Registry(database_of(self.settings, "catalog_url"))

    @cached_property
    def raw(self) -> Any:
        """The raw zone."""
        from researchkit.data.door import Door
        from researchkit.data.raw import RawZone
        from researchkit.data.store import open_store
        from researchkit.security.policy import Policy

        store = open_store(self.settings, lambda: self.secrets)
        door = Door(Policy(self.root / "policy"), self.ledger)
        return RawZone(self.root / "raw", registry=self.registry, keyring=self.keys, door=door, store=store)


def create(root: Path, **settings: str) -> Vaulted:
    """Make a workspace whose settings say this, and open it."""
    from researchkit.security.policy import GRANTS, install

    root.mkdir(parents=True)
    (root / "researchkit.toml").write_text("".join(f'{k} = "{v}"\n' for k, v in settings.items()))
    install(root / "policy")
    granted = {"roles": {"custodian": [{"action": action, "resource": "*"} for action in MAY]}}
    (root / "policy" / GRANTS).write_text(json.dumps(granted))
    return reopen(root)


def witnessed(ws: Vaulted) -> Vaulted:
    """Put a witness beside a workspace, in the same process, and open the workspace again."""
    from researchkit.security.note import origin_of
    from researchkit.security.witness_host import found_witness, trust_log

    key, own = found_witness(ws.root / WITNESS, "here.test/w1"), ws.keys.signer().public_hex
    trust_log(ws.root / WITNESS, origin_of(own), own)
    with (ws.root / "researchkit.toml").open("a") as file:
        file.write(f'witness_url = "https://127.0.0.1:1?key={key}&name=here.test/w1"\n')
    return reopen(ws.root)


def reopen(root: Path) -> Vaulted:
    """Open a workspace as a new process would."""
    return Vaulted(read(root))


def remove(root: Path) -> None:
    """Take a workspace away, with its immutable objects."""
    from researchkit.security.durable import clear_immutable

    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            clear_immutable(path)
    shutil.rmtree(root, ignore_errors=True)
