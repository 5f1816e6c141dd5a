"""Live an object's life, die at an instant, live it again: every instant in a process of its own.

A test runs this file as a program, so that it forks from a process without threads; it reads its task from standard
input and prints what was left that should not be, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from researchkit.context import Context, Principal
from researchkit.data.door import Door
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.data.s3 import S3Store
from researchkit.data.store import FileStore, Store
from researchkit.data.transfer import PART
from researchkit.errors import AccessDenied
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install
from researchkit.security.secret import Secret
from researchkit.settings import address

ME = Context(Principal("engineer3", ("data-engineer", "quant", "custodian")))
TABLE = "DEMO/ohlcv-1d"
FIRST, SECOND = b"the first delivery", b"the second, corrected" * (PART // 21 + 2)


def zone(root: Path, store: Store) -> SimpleNamespace:
    """A raw zone with everything it needs."""
    install(root / "policy")
    door = Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db"))
    registry, keys = Registry(f"sqlite:///{root}/catalog.db"), Keyring(root / "keys")
    raw = RawZone(root / "raw", registry=registry, keyring=keys, door=door, store=store)
    return SimpleNamespace(raw=raw, door=door, registry=registry, root=root, store=store)


def life(ws: SimpleNamespace) -> None:
    """Everything that can happen to two objects, each act such that it may be asked for again."""
    given = {"name": "x", "key": "demo", "table": TABLE, "context": ME}
    old = ws.raw.find(hashlib.sha256(FIRST).hexdigest())
    if old is None or old.deleted_ns is None:
        try:
            old = ws.raw.put(FIRST, **given)
        except AccessDenied as e:  # killed between the deletion and its row
            if "its deletion was begun" not in str(e):
                raise
    new = ws.raw.put(SECOND, expect=1, **given)
    ws.raw.retain(new.sha256, date(2099, 1, 1), context=ME)
    ws.raw.hold(new.sha256, True, "case 4711", context=ME)
    ws.raw.hold(new.sha256, False, "case 4711 is closed", context=ME)
    if not old.until_ns and old.deleted_ns is None:
        ws.raw.delete(old.sha256, context=ME)


def facts(ws: SimpleNamespace) -> dict[str, Any]:
    """What there is, in words that are the same in every workspace."""
    old, new = (ws.raw.find(hashlib.sha256(content).hexdigest()) for content in (FIRST, SECOND))
    state, kinds = ws.raw.custody(new.sha256), [e.kind for e in ws.door.ledger.entries()]
    return {
        "versions": [(v.version, v.sha256) for v in ws.raw.versions("x", TABLE)],
        "until": [state.until_ns, new.until_ns, ws.store.stat(new.path, new.store_version).until_ns],
        "held": [state.held, new.held],
        "deleted": [old.deleted_ns is not None, ws.store.stat(old.path, old.store_version) is None],
        "once": {kind: kinds.count(kind) for kind in ("object", "version", "retain", "delete")},
        "readable": ws.raw.get(new.sha256, context=ME) == SECOND,
        "whole": [f.ok for f in ws.raw.verify()],
        "ledger": ws.door.ledger.verify().ok,
        "left over": sorted(p.name for p in ws.root.rglob(".tmp-*")),
    }


def child(work: Callable[[], None], environment: dict[str, str]) -> int:
    """Run work in a process of its own and say how it ended."""
    if (pid := os.fork()) == 0:
        try:
            os.environ |= environment
            work()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    """Die once at each site and instant that an untouched life reaches."""
    task = json.load(sys.stdin)

    def store(root: Path) -> Store:
        if task["kind"] == "file":
            return FileStore(root / "raw", immutable=False)
        keys = {name: Secret(task[name]) for name in ("access_key", "secret_key")}
        url = f"s3://{task['bucket']}/{root.name}?endpoint={task['endpoint']}&secret=bucket"
        return S3Store(address("raw_url", url), lambda: keys, ca=Path(task["ca"]), retention_days=1)

    with tempfile.TemporaryDirectory(dir=task["place"]) as place:

        def lived(name: str, at: str = "") -> tuple[int, Path]:
            root = Path(place) / name.lower()
            counted = {
                "RESEARCHKIT_KILL_COUNT": str(Path(place) / f"{name}.count"),
                "RESEARCHKIT_KILL_AT": at,
            }
            return child(lambda: life(zone(root, store(root))), counted), root

        ended, root = lived("untouched")
        reached = dict.fromkeys((Path(place) / "untouched.count").read_text().split()) if ended == 0 else {}
        wanted = facts(zone(root, store(root)))
        wrong: dict[str, Any] = {} if ended == 0 else {"untouched": ended}
        instants = [at for at in reached if at.startswith(tuple(task["sites"]))]
        for at in instants:
            name = at.replace(":", "-")
            ended, root = lived(name, f"{at}:1")
            again = child(lambda root=root: life(zone(root, store(root))), {})
            if (ended, again) != (-signal.SIGKILL, 0):
                wrong[at] = {"ended": ended, "again": again}
                continue
            ws = zone(root, store(root))
            ws.store.sweep()
            found = facts(ws)
            if different := {k: [v, wanted[k]] for k, v in found.items() if v != wanted[k]}:
                wrong[at] = different
    print(json.dumps({"instants": instants, "wrong": wrong}))


if __name__ == "__main__":
    main()
