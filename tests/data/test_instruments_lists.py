"""A list of corporate actions is entered once, whoever dies in between; and everything is asked through the door."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from researchkit.context import Context, Principal
from researchkit.data import tables
from researchkit.data.accounts import Index
from researchkit.data.actions import read_actions
from researchkit.data.door import Door
from researchkit.data.entering import enter
from researchkit.data.instruments import Instruments
from researchkit.data.lake import Lake
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.errors import AccessDenied, IntegrityError, NotFound, SchemaError
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, grant, install

ME = Context(Principal("engineer3", ("data-engineer", "quant")))
TOP = "symbol,kind,ex,ratio,amount\n"
ONE = "AAA,dividend,2013-07-01,,0.5\nAAA,dividend,2013-10-01,,0.5\n"


class Desk:
    """A lake and what is needed to enter a list."""

    def __init__(self, root: Path) -> None:
        install(root / "policy")
        grant(root / "policy", "quant", action="read", resource="ACME/*")
        self.registry = Registry(f"sqlite:///{root}/catalog.db")
        self.door = Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db"))
        zone: dict[str, Any] = {
            "registry": self.registry,
            "keyring": Keyring(root / "keys"),
            "door": self.door,
        }
        self.now = datetime(2013, 12, 10, tzinfo=UTC)
        self.raw = RawZone(root / "raw", immutable=False, clock=self.clock, **zone)
        self.lake = Lake(root / "lake", registry=self.registry, raw=self.raw, door=self.door)
        self.root = root

    def clock(self) -> int:
        return int(self.now.timestamp()) * 10**9

    def keep(self, name: str, text: str) -> str:
        return self.raw.put(text.encode(), name=name, key="actions", table="ACME/actions", context=ME).sha256

    def enter(self, sha256: str) -> Any:
        parts: dict[str, Any] = {"raw": self.raw, "catalog": self.lake.catalog, "index": self.lake._index}
        return enter(sha256, read_actions, context=ME, **parts)

    def rows(self, asof: str | None = None) -> pl.DataFrame:
        return self.lake.scan("ACME/actions", asof=asof, context=ME).collect()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


class Killed(BaseException):
    """The process is gone."""


def killed_at(site: str, when: str) -> Callable[[str, str], None]:
    def reached(at: str, instant: str) -> None:
        if (at, instant) == (site, when):
            raise Killed

    return reached


@pytest.mark.parametrize(
    ("site", "when"), [("commit", "before"), ("commit", "after"), ("ingest", "before"), ("ingest", "after")]
)
@pytest.mark.parametrize("restated", [False, True])
def test_a_kill_anywhere_leaves_the_old_state_or_the_new(desk, monkeypatch, site, when, restated) -> None:
    sha = desk.keep("a.csv", TOP + ONE)
    if restated:
        desk.enter(sha)
        desk.now = datetime(2013, 12, 12, tzinfo=UTC)
        sha = desk.keep("a.csv", TOP + ONE.replace("0.5", "0.6", 1))
    with monkeypatch.context() as patch:
        for module in ("tables", "accounts"):
            patch.setattr(f"researchkit.data.{module}.reached", killed_at(site, when))
        with pytest.raises(Killed):
            desk.enter(sha)
    again = Desk(desk.root)
    again.now = desk.now
    again.enter(sha)
    again.enter(sha)
    seen = again.rows("2013-12-13").select("ts_event", "amount").sort("ts_event")["amount"].to_list()
    assert [float(a) for a in seen] == ([0.6, 0.5] if restated else [0.5, 0.5])
    assert [float(a) for a in again.rows("2013-12-11").sort("ts_event")["amount"]] == [0.5, 0.5]
    assert len(again.door.ledger.entries(kind="ingest", subject=f"ingest:{sha}:ACME/actions")) == 1
    assert not again.lake._index.missing(again.lake.catalog.load_table(("acme", "actions")), tables_of())


def tables_of() -> Any:
    from researchkit.context import parse_table

    return parse_table("ACME/actions")


def test_two_files_do_not_take_each_others_rows_back(desk) -> None:
    desk.enter(desk.keep("a.csv", TOP + ONE))
    desk.enter(desk.keep("b.csv", TOP + ONE + "BBB,split,2013-08-01,2,\n"))
    assert desk.rows().height == 3
    desk.now = datetime(2013, 12, 12, tzinfo=UTC)
    gone = desk.enter(desk.keep("b.csv", TOP + "CCC,split,2013-08-01,3,\n"))
    assert (gone.rows, gone.retracted) == (1, 1)
    assert sorted(desk.rows()["symbol"]) == ["AAA", "AAA", "CCC"]
    assert sorted(desk.rows("2013-12-11")["symbol"]) == ["AAA", "AAA", "BBB"]
    restated = desk.registry.rows("SELECT * FROM restatements")
    assert [(r["retracted"], r["added"]) for r in restated] == [(1, 1)]


def test_a_row_said_twice_is_there_twice(desk) -> None:
    assert desk.enter(desk.keep("a.csv", TOP + "AAA,dividend,2013-07-01,,0.5\n" * 2)).rows == 2
    assert desk.rows().height == 2


def test_what_cannot_be_read_is_not_kept(desk, tmp_path) -> None:
    part = Instruments(lake=desk.lake, registry=desk.registry, raw=desk.raw, door=desk.door)
    bad = tmp_path / "bad.csv"
    bad.write_text(TOP + "AAA,splat,2013-07-01,,0.5\n")
    with pytest.raises(SchemaError, match=r"bad\.csv line 2: no kind of action 'splat'"):
        part.bring_actions(bad, "ACME", licence="internal", context=ME)
    assert desk.raw.objects() == []


def test_without_a_grant_nothing_is_told(desk, tmp_path) -> None:
    part = Instruments(lake=desk.lake, registry=desk.registry, raw=desk.raw, door=desk.door)
    good = tmp_path / "good.csv"
    good.write_text(TOP + ONE)
    stranger = Context(Principal("nobody", ()))
    with pytest.raises(AccessDenied):
        part.bring_actions(good, "ACME", licence="internal", context=stranger)
    part.bring_actions(good, "ACME", licence="internal", context=ME)
    with pytest.raises(AccessDenied):
        part.actions("ACME", context=stranger)
    for call in (
        lambda: part.contracts("ES", "GLBX.MDP3", context=ME),
        lambda: part.rolls("ES.c.0", "GLBX.MDP3", context=ME),
        lambda: part.settlements("GLBX.MDP3", context=ME),
        lambda: part.session_bars("GLBX.MDP3/trades", "2013-01-02", "2013-01-04", context=ME),
    ):
        with pytest.raises(AccessDenied):
            call()
    with pytest.raises(NotFound, match="no table 'ACME/ohlcv-1m'"):
        part.session_bars("ACME/ohlcv-1m", "2013-01-02", "2013-01-04", calendar="XNYS", context=ME)
    entry = desk.door.ledger.entries(kind="description")[-1]
    assert entry.body["licence"] == "internal"


def test_a_list_of_a_million_lines_is_none(desk, monkeypatch) -> None:
    monkeypatch.setattr("researchkit.data.entering._LINES", 2)
    with pytest.raises(IntegrityError, match="has more than 2 lines"):
        desk.enter(desk.keep("a.csv", TOP + ONE + ONE))
    assert tables.commits(desk.lake.catalog.load_table(("acme", "actions"))) == {}


def test_the_index_knows_the_rows(desk) -> None:
    desk.enter(desk.keep("a.csv", TOP + ONE))
    assert isinstance(desk.lake._index, Index)
    assert desk.lake.symbols("ACME/actions")["rows"].to_list() == [2]
    assert all(f.ok for f in desk.lake.verify("ACME/actions"))
