"""Every collect is asked for and written down; what is sealed, refused or superseded stays out of sight."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from researchkit.context import Context, Principal
from researchkit.data.door import Door
from researchkit.data.encode import encode_bars
from researchkit.data.lake import Lake
from researchkit.data.pins import Pins
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.errors import AccessDenied, NotFound
from researchkit.frames import BARS, check, conform
from researchkit.security.durable import clear_immutable, is_immutable
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

TABLE = "DEMO/ohlcv-1d"
ME = Context(Principal("tester", ("data-engineer", "quant")))


def bars(
    sessions: int, *, first: datetime = datetime(2004, 12, 27, tzinfo=UTC), plus: float = 0.0
) -> pl.DataFrame:
    days = [first + timedelta(days=i) for i in range(sessions)]
    rows = pl.DataFrame(
        {"ts_event": days * 2, "symbol": ["COMP"] * sessions + ["SPX"] * sessions, "volume": 10}
    )
    known, price = pl.col("ts_event") + pl.duration(days=1), pl.col("ts_event").dt.day() + 100.0 + plus
    prices = {name: price for name in ("open", "high", "low", "close")}
    return conform(rows.with_columns(ts_known=known, ts_published=known, **prices), BARS)


@pytest.fixture
def ws(tmp_path: Path) -> SimpleNamespace:
    install(tmp_path / "policy")
    registry = Registry(f"sqlite:///{tmp_path}/catalog.db")
    door = Door(Policy(tmp_path / "policy"), Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    keys = Keyring(tmp_path / "keys")
    raw = RawZone(tmp_path / "raw", registry=registry, keyring=keys, door=door, immutable=False)
    lake = Lake(tmp_path / "lake", registry=registry, raw=raw, door=door)
    pins = Pins(registry=registry, lake=lake, door=door)

    def bring(frame: pl.DataFrame, name: str, key: str = "demo", **rest: object) -> object:
        found = raw.put(encode_bars(frame, dataset="DEMO", schema="ohlcv-1d"), name=name, key=key, context=ME)
        return lake.ingest(found.sha256, context=ME, **rest)

    return SimpleNamespace(
        root=tmp_path, raw=raw, lake=lake, pins=pins, door=door, bring=bring, keys=keys, registry=registry
    )


def test_one_collect_is_one_line_and_making_a_frame_is_none(ws: SimpleNamespace) -> None:
    ws.bring(bars(10), "a")
    lazy = ws.lake.scan(TABLE, symbols="SPX", context=ME)
    before = len(ws.door.ledger.entries(kind="read"))
    lazy.select("close").collect()
    lazy.filter(pl.col("close") > 1).select("symbol").collect(engine="streaming")
    first, second = ws.door.ledger.entries(kind="read")[before:]
    assert first.body["columns"] == ["close"]
    assert first.body["symbols"] == ["SPX"]
    assert "close" in second.body["predicate"]


def test_a_grant_withdrawn_after_the_frame_was_made_counts(ws: SimpleNamespace) -> None:
    ws.bring(bars(10), "a")
    lazy = ws.lake.scan(TABLE, context=ME)
    (ws.root / "policy" / "grants.json").write_text('{"roles": {}}')
    with pytest.raises(AccessDenied, match="may not read DEMO/ohlcv-1d"):
        lazy.collect()
    assert ws.door.ledger.entries(kind="denied")[-1].body["table"] == TABLE


def test_no_row_when_the_ledger_cannot_be_written(
    ws: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws.bring(bars(10), "a")
    lazy = ws.lake.scan(TABLE, context=ME)

    def full(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(type(ws.door.ledger), "append", full)
    with pytest.raises(OSError, match="disk full"):
        lazy.collect()


def test_what_comes_out_is_a_frame_of_the_contract(ws: SimpleNamespace) -> None:
    ws.bring(bars(400), "a")
    whole = ws.lake.scan(TABLE, context=ME).collect()
    assert check(whole, BARS).equals(whole)
    assert whole.height == 800
    cut = pl.lit(datetime(2005, 1, 1, tzinfo=UTC)).cast(pl.Datetime("ns", "UTC"))
    lazy = ws.lake.scan(TABLE, context=ME)
    assert lazy.filter(pl.col("ts_event") >= cut).collect().equals(whole.filter(pl.col("ts_event") >= cut))
    assert (
        lazy.filter((pl.col("symbol") == "SPX") & (pl.col("close") > 120))
        .collect()
        .equals(whole.filter((pl.col("symbol") == "SPX") & (pl.col("close") > 120)))
    )
    assert lazy.head(7).collect().equals(whole.head(7))
    assert lazy.tail(3).collect().equals(whole.tail(3))
    assert lazy.select("close").collect().equals(whole.select("close"))
    assert lazy.filter(pl.col("symbol") == "NONE").collect().height == 0


def test_corrections_are_seen_from_their_day_on(ws: SimpleNamespace) -> None:
    ws.bring(bars(10), "a")
    ws.pins.create("before", [TABLE], context=ME)
    ws.bring(bars(2, plus=50.0), "fix", published=datetime(2005, 6, 1, tzinfo=UTC))

    def first(**rest: object) -> float:
        return float(ws.lake.scan(TABLE, symbols=["SPX"], context=ME, **rest).head(1).collect()["close"][0])

    assert [first(asof="2005-05-31"), first(asof="2005-06-01"), first(), first(pin="before")] == [
        127.0,
        177.0,
        177.0,
        127.0,
    ]
    assert ws.lake.scan(TABLE, context=ME).collect().height == 20


def test_a_weekend_has_no_rows_and_says_so(ws: SimpleNamespace) -> None:
    ws.bring(
        pl.concat([bars(2), bars(2, first=datetime(2005, 1, 3, tzinfo=UTC))]).sort("ts_event", "symbol"), "a"
    )
    lazy = ws.lake.scan(TABLE, start="2004-12-30", end="2005-01-02", context=ME)
    with pytest.raises(NotFound, match="no rows of DEMO/ohlcv-1d from 2004-12-30 to 2005-01-02: there is"):
        lazy.collect()
    with pytest.raises(NotFound, match="no rows"):
        lazy.filter(pl.col("symbol") == "SPX").collect()


def test_sealed_years_reach_neither_lake_nor_catalog_before_the_seal_is_opened(ws: SimpleNamespace) -> None:
    ws.bring(bars(10), "a")
    late = encode_bars(bars(5, first=datetime(2014, 1, 2, tzinfo=UTC)), dataset="DEMO", schema="ohlcv-1d")
    sealed = ws.raw.put(late, name="late", key="demo-sealed", context=ME)
    for attempt in (ws.raw.get, ws.lake.ingest):
        with pytest.raises(AccessDenied, match="sealed until a campaign is registered"):
            attempt(sealed.sha256, context=ME)
    assert ws.lake.tables()["last"].dt.year().to_list() == [2005]
    assert [o.key_name for o in ws.raw.objects()] == ["demo", "demo-sealed"]
    for name, body in (
        ("r0", {}),
        ("r1", {"sealed": [{"raw": "0" * 64}]}),
        ("r2", {"sealed": [{"raw": sealed.sha256}]}),
    ):
        ws.door.record("registration", {"subject": f"campaign:{name}", "registration": body}, context=ME)
    ws.door.record("registration", {"subject": "campaign:r3"}, context=ME)
    for name in ("r0", "r1", "r3", "r4"):
        with pytest.raises(AccessDenied, match="only for a registered campaign"):
            ws.raw.open_seal(sealed.sha256, registration=name, context=ME)
        assert not ws.raw.opened(sealed.sha256)
    ws.raw.open_seal(sealed.sha256, registration="r2", context=ME)
    assert ws.lake.ingest(sealed.sha256, context=ME).rows == 10


def test_the_same_rows_from_another_file_add_nothing(ws: SimpleNamespace) -> None:
    ws.bring(bars(10), "a")
    again = ws.bring(bars(8), "b")
    assert (again.rows, again.snapshot, again.new) == (0, 0, True)
    assert ws.lake.scan(TABLE, context=ME).collect().height == 20
    assert ws.bring(bars(8), "b").new is False


def test_raw_objects_are_read_only_and_immutable_where_that_exists(ws: SimpleNamespace) -> None:
    zone = RawZone(
        ws.root / "raw2", registry=Registry(f"sqlite:///{ws.root}/other.db"), keyring=ws.keys, door=ws.door
    )
    found = zone.put(b"bytes", name="x", key="demo", table=TABLE, context=ME)
    path = ws.root / "raw2" / found.path
    try:
        assert path.stat().st_mode & 0o777 == 0o444
        assert b"bytes" not in path.read_bytes()
        assert is_immutable(path) in (True, False)
    finally:
        clear_immutable(path)


def test_an_object_left_by_a_killed_put_is_adopted_only_if_it_is_whole(ws: SimpleNamespace) -> None:
    found = ws.raw.put(b"bytes", name="x", key="demo", table=TABLE, context=ME)
    path = ws.root / "raw" / found.path
    before = path.read_bytes()
    ws.registry.write(("DELETE FROM raw_objects WHERE sha256 = :s", [{"s": found.sha256}]))
    assert (
        ws.raw.put(b"bytes", name="x", key="demo", table=TABLE, context=ME).cipher_sha256
        == found.cipher_sha256
    )
    assert path.read_bytes() == before
    assert len(ws.door.ledger.entries(kind="object")) == 1
