"""Names that are paths, or that are not what they look like, are refused at every door."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from vaulted import ME, TABLE, Vaulted

from researchkit.data.archive import Archive, location
from researchkit.data.store import FileStore
from researchkit.errors import ResearchKitError
from researchkit.security.secret import Secret

PATHS = (
    "../x",
    "..",
    ".",
    "",
    "a/../../b",
    "/etc/passwd",
    "//x",
    "..\\x",
    "C:\\x",
    "a/b",
    "~/x",
    ".hidden",
    "-rf",
)
HIDDEN = ("a\0b", "\0", "a\nb", "a\r", "a\tb", "\x1b[2J", "a\x7f", " a", "a ", "x" * 5000)
UNICODE = (
    "gpj\u202eexe", "\u200bx", "x\u2060", "\ufeffx", "cafe\u0301", "\u2024\u2024", "a\uff0fb", "a\u2215b\u202d",
    "\ud800", "\uff0e\uff0e", "x\U000e0041", "\u00a0x", "a\u2028b",
)  # fmt: skip
WICKED = (*PATHS, *HIDDEN, *UNICODE)
DAY = date(2004, 12, 31)


def everything(ws: Vaulted) -> set[str]:
    """What lies around the workspace and in it, but for the databases' own files."""
    return {str(p) for p in ws.root.parent.rglob("*") if ".db" not in p.name and p.name != ".lock"}


@pytest.mark.attack("names that are paths or lie", tier="embedded")
@pytest.mark.parametrize("door", ["raw object", "key", "secret", "stored name", "archive", "table"])
def test_wicked_names_are_refused_at_every_door(ws: Vaulted, door: str) -> None:
    def put(name: str = "a.dbn", table: str = TABLE) -> object:
        return ws.raw.put(b"x", name=name, key="own", table=table, context=ME)

    put()
    archive, store = Archive(ws.root / "archive"), FileStore(ws.root / "raw")
    doors: dict[str, tuple[Callable[[str], object], ...]] = {
        "raw object": (put,),
        "key": (ws.keys.create, ws.keys.exists, ws.keys.destroy, lambda n: ws.raw.put(b"y", name="b", key=n, table=TABLE, context=ME)),
        "secret": (lambda n: ws.secrets.put(n, Secret("x")), ws.secrets.get, ws.secrets.remove),
        "stored name": (lambda n: store.publish(n, lambda s: s.write(b"x")), store.open, store.stat, store.delete,
                        lambda n: store.hold(n, on=True), lambda n: store.retain(n, until_ns=1 << 62)),
        "archive": (lambda n: archive.put(b"{}", day=DAY, job="j", run="r", name=n), lambda n: archive.put(b"{}", day=DAY, job=n, run="r", name="n"),
                    lambda n: archive.run(DAY, "j", n), lambda n: location(DAY, n, "r", "x")),
        "table": (lambda n: put("c", f"OWN.TEST/{n}"), lambda n: put("c", f"{n}/ohlcv-1d")),
    }  # fmt: skip
    before, taken = everything(ws), []
    for number, step in enumerate(doors[door]):
        for name in WICKED:
            if door == "stored name" and name in (
                "a/b",
                "-rf",
            ):  # a store has folders, and never sees a vendor's name
                continue
            try:
                step(name)
            except (ResearchKitError, ValueError) as e:
                if {"\0", "\x1b"} & set(str(e)):  # which a terminal would obey
                    taken.append((number, ascii(name), "is repeated as it is in the message"))
            except Exception as e:
                taken.append((number, ascii(name), f"{type(e).__name__} comes out as it is"))
            else:
                taken.append((number, ascii(name), "was taken"))
    assert taken == []
    assert everything(ws) == before


def test_honest_names_of_the_world_are_taken(ws: Vaulted) -> None:
    for number, name in enumerate(
        ("glbx-mdp3-20041231.ohlcv-1d.dbn.zst", "相場 2004.dbn", "café.dbn", "a..b")
    ):
        ws.raw.put(bytes([number]), name=name, key="own", table=TABLE, context=ME)
    assert len(ws.raw.objects()) == 4


def test_two_names_that_look_alike_are_two_names(ws: Vaulted, tmp_path: Path) -> None:
    ws.raw.put(b"latin", name="a.dbn", key="own", table=TABLE, context=ME)
    ws.raw.put(b"cyrillic", name="\u0430.dbn", key="own", table=TABLE, context=ME)
    assert [len(ws.raw.versions(n, TABLE)) for n in ("a.dbn", "\u0430.dbn")] == [1, 1]
