"""A disk that is full at every possible moment: what was acknowledged stays, the rest is refused in plain words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from vaulted import ME, TABLE, Vaulted, create, remove, reopen, witnessed

from researchkit.errors import WorkspaceError
from researchkit.security.secret import Secret

SIZE = 40_000  # bytes of an object
LEFT = (0, 8, 20, 44, 64, 100, 200, 400, 900)  # kilobytes that are free when the work begins


@pytest.fixture
def small(small_disk: Path) -> Iterator[Vaulted]:
    """A workspace with a witness on a disk of 16 MB."""
    ws = witnessed(create(small_disk / "ws"))
    ws.keys.create("own")
    ws.secrets.put("db", Secret("first"))
    put(ws, 0)
    ws.ledger.checkpoint()
    yield reopen(ws.root)
    (small_disk / "filler").unlink(missing_ok=True)
    remove(ws.root)


def put(ws: Vaulted, number: int) -> str:
    data = number.to_bytes(4) * (SIZE // 4)
    return str(ws.raw.put(data, name=f"{number}.dbn", key="own", table=TABLE, context=ME).sha256)


def fill(disk: Path, kilobytes: int) -> None:
    """Leave so much room, and not a block more."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("wb", buffering=0) as file:
        for piece in (1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    file.write(bytes(piece))
        os.truncate(filler, max(0, filler.stat().st_size - (kilobytes << 10)))


def attempt(step: Callable[[], Any]) -> Any:
    """What a step returned; None when it was refused in the project's own words."""
    try:
        return step()
    except WorkspaceError:
        return None


@pytest.mark.attack("disk full in put, append and checkpoint", tier="embedded")
def test_a_full_disk_loses_nothing_that_was_acknowledged(small: Vaulted, small_disk: Path) -> None:
    kept: dict[str, list[Any]] = {"put": [], "append": [], "checkpoint": [], "secret": ["first"]}
    refusals = 0
    for number, kilobytes in enumerate(LEFT, 1):
        ws = reopen(small.root)
        ws.ledger.head()
        ws.registry.one("SELECT 1 AS one")
        fill(small_disk, kilobytes)
        value = f"value {number}"
        steps: dict[str, Callable[[], Any]] = {
            "append": lambda ws=ws, number=number: ws.ledger.append(
                "note", {"number": number, "text": "x" * 3000}, ME
            ),
            "put": lambda ws=ws, number=number: put(ws, number),
            "checkpoint": lambda ws=ws: str(ws.ledger.checkpoint()),
            "secret": lambda ws=ws, value=value: ws.secrets.put("db", Secret(value)) and value,
        }
        for kind, step in steps.items():
            done = attempt(step)
            refusals += done is None
            kept[kind] += [] if done is None else [done]
        attempt(ws.keys.rotate)
        (small_disk / "filler").unlink()
        _nothing_is_lost(reopen(small.root), kept)
    assert refusals >= len(LEFT), f"the disk was full {refusals} times"
    assert min(map(len, kept.values())) >= 2, "the disk was always full"
    ws = reopen(small.root)
    for number in range(len(LEFT) + 1):
        put(ws, number)  # what was refused can be done now
    assert ws.ledger.checkpoint().cosigned
    assert ws.ledger.verify().witnessed == ws.ledger.head().seq
    assert len(ws.raw.objects()) == len(LEFT) + 1
    assert [p for p in ws.root.rglob(".tmp-*")] == []


def _nothing_is_lost(ws: Vaulted, kept: dict[str, list[Any]]) -> None:
    """Everything acknowledged is there, everything listed is whole, the chain holds."""
    ws.ledger.verify(checkpoint=kept["checkpoint"][-1] if kept["checkpoint"] else None)
    assert all(finding.ok for finding in ws.raw.verify())
    for sha256 in kept["put"]:
        assert len(ws.raw.get(sha256, context=ME)) == SIZE
    for entry in kept["append"]:
        assert ws.ledger.entry(entry.seq).hash == entry.hash
    notes = ws.ledger.notes()
    for text in kept["checkpoint"]:
        assert any(note.startswith(text.partition("\n\n")[0]) for note in notes)
    assert ws.secrets.get("db").reveal() in kept["secret"][-1:], (
        "an acknowledged secret is the one that is there"
    )
