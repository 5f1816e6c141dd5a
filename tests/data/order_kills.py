"""Buy, die at an instant, go on: every instant of an order in a process of its own.

A test runs this file as a program, so that it forks from a process without threads; it reads its task from standard
input and prints how each life ended, as JSON. Raw zone and lake are stand-ins that remember nothing but files: what is
tried here is the way of an order. Each life buys a day of its own, so the vendor's jobs tell whether one was bought twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databento  # noqa: F401  imported before the fork
import polars  # noqa: F401
import regopy  # noqa: F401
import requests  # noqa: F401

from researchkit.context import Context, Principal
from researchkit.data.door import Door
from researchkit.data.historical import open_vendor
from researchkit.data.line import Patience
from researchkit.data.orders import Order, Orders
from researchkit.data.purchase import Purchases
from researchkit.data.registry import Registry
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install
from researchkit.security.secret import Secret
from researchkit.settings import Settings

ME = Context(Principal("engineer3", ("data-engineer",)))
DAY = 86_400 * 10**9
JANUARY = 1_704_067_200 * 10**9  # 2024-01-01
SESSIONS = (2, 3, 4, 5, 8, 9, 10, 11, 12, 16, 17, 18, 19, 22, 23, 24, 25, 26, 29, 30, 31)
SITES = ("order", "delivery")


def purchases(root: Path, task: dict[str, Any]) -> Purchases:
    """A shop whose raw zone is a folder and whose lake is a list."""
    kept = root / "kept"
    kept.mkdir(exist_ok=True)

    def put(source: Path | bytes, *, name: str, vendor_sha256: str | None, **given: Any) -> SimpleNamespace:
        content = source if isinstance(source, bytes) else source.read_bytes()
        if vendor_sha256 not in (None, found := hashlib.sha256(content).hexdigest()):
            raise AssertionError(f"{name} is not what the vendor listed")
        (kept / name).write_bytes(content)
        (kept / found).write_bytes(content)
        return SimpleNamespace(sha256=found)

    settings = Settings(root, vendor_url=task["vendor_url"])
    secrets: Any = SimpleNamespace(get=lambda name: Secret(task["key"]))
    quick = Patience(sleep=lambda seconds: None)
    door, registry = (
        Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db")),
        Registry(f"sqlite:///{root}/catalog.db"),
    )
    raw: Any = SimpleNamespace(
        put=put, get=lambda sha256, **given: (kept / sha256).read_bytes(), find=lambda sha256: None
    )
    lake: Any = SimpleNamespace(ingest_many=lambda objects, **given: [])
    return Purchases(
        vendor=open_vendor(settings, lambda: secrets, patience=quick), raw=raw, lake=lake, registry=registry, door=door,
        folder=root / "purchases", signed=lambda resource: True, settle=0.0, sleep=lambda seconds: None,
    )  # fmt: skip


def order_number(number: int) -> Order:
    """A day of its own for each life: a schema, a symbol and a span that no other has."""
    start = JANUARY + (SESSIONS[number // 4] - 1) * DAY
    return Order(
        "XNAS.ITCH",
        ("ohlcv-1d", "ohlcv-1h", "trades", "tbbo")[number % 4],
        ("AAPL",),
        "raw_symbol",
        start,
        start + DAY,
    )


def child(work: Callable[[], object], environment: dict[str, str]) -> int:
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


def ended(root: Path) -> dict[str, Any]:
    """How a life ended, in words that are the same for all."""
    registry = Registry(f"sqlite:///{root}/catalog.db")
    ledger = Ledger(f"sqlite:///{root}/ledger.db")
    door = Door(Policy(root / "policy"), ledger)
    (placed,) = Orders(registry, door).all()
    kinds = [entry.kind for entry in ledger.entries()]
    return {
        "state": placed.state,
        "owned": len(registry.rows("SELECT * FROM coverage")),
        "files": sorted(row["raw_sha256"] != "" for row in Orders(registry, door).files(placed)),
        "kept": len(list((root / "kept").iterdir())),
        "delivered": kinds.count("delivered"),
        "left": sorted(p.name for p in (root / "purchases").iterdir() if p.is_dir()),
    }


def lives(place: Path, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One life untouched, and one for each instant that it reached."""
    shape = place / "shape"
    install(shape / "policy")
    Registry(f"sqlite:///{shape}/catalog.db").rows("SELECT 1")
    Ledger(f"sqlite:///{shape}/ledger.db").head()

    def lived(number: int, at: str) -> tuple[int, Path, list[str]]:
        root, count = place / f"life-{number}", place / f"life-{number}.count"
        shutil.copytree(shape, root)
        variables = {"RESEARCHKIT_KILL_COUNT": str(count), "RESEARCHKIT_KILL_AT": at}
        status = child(lambda: purchases(root, task).buy(order_number(number), context=ME), variables)
        return status, root, count.read_text().split()

    status, root, reached = lived(0, "")
    yield {"at": "", "status": status, **ended(root)}
    instants = [
        f"{name}:{reached[: i + 1].count(name)}"
        for i, name in enumerate(reached)
        if name.partition(":")[0] in SITES
    ]
    for number, at in enumerate(instants[:: task["stride"]], start=1):
        status, root, _ = lived(number, at)
        again = child(lambda r=root, n=number: purchases(r, task).buy(order_number(n), context=ME), {})  # type: ignore[misc]
        yield {"at": at, "status": status, "again": again, **ended(root)}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(list(lives(Path(folder), asked))))
