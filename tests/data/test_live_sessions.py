"""Live sessions with the vendor's own client against a gateway that fails in every way it knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from gateway import END, KEY, START, Gateway
from market import day_of

from researchkit.context import Context, Principal
from researchkit.data.door import Door
from researchkit.data.historical import open_vendor
from researchkit.data.lake import Lake
from researchkit.data.line import Patience, Refusal
from researchkit.data.listening import LiveSession
from researchkit.data.live import Limits, Recorder
from researchkit.data.purchase import Purchases
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.data.segments import Feed, feed_of
from researchkit.errors import AccessDenied
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, grant, install
from researchkit.security.secret import Secret
from researchkit.settings import Settings, address

ME = Context(Principal("engineer3", ("data-engineer", "quant")))
FEED = feed_of("GLBX.MDP3", ["trades", "ohlcv-1m"], ["ES.FUT"])
HOUR = 3_600 * 10**9
UNTIL = START + HOUR
IMPATIENT = Patience(attempts=3, sleep=lambda seconds: None)


@pytest.fixture
def ws(tmp_path: Path, gateway: Gateway) -> Iterator[SimpleNamespace]:
    """A recorder with everything behind it."""
    install(tmp_path / "policy")
    for schema in FEED.schemas:
        grant(tmp_path / "policy", "quant", action="read", resource=f"{FEED.dataset}/{schema}")
    door = Door(Policy(tmp_path / "policy"), Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    registry = Registry(f"sqlite:///{tmp_path}/catalog.db")
    keys = Keyring(tmp_path / "keys")
    raw = RawZone(tmp_path / "raw", registry=registry, keyring=keys, door=door, immutable=False)
    lake = Lake(tmp_path / "lake", registry=registry, raw=raw, door=door)
    made = SimpleNamespace(root=tmp_path, door=door, registry=registry, raw=raw, lake=lake, gateway=gateway)
    gateway.reset(START, END, then="idle")
    made.key, made.made = KEY, []

    def connect(feed: Feed, start: int | None) -> LiveSession:
        made.made.append(start)
        return LiveSession(address("live_url", gateway.url()), Secret(made.key), feed, start=start)

    parts = {"raw": raw, "lake": lake, "registry": registry, "door": door, "folder": tmp_path / "live"}
    made.recorder = Recorder(
        connect=connect, signed=lambda resource: True, clock=lambda: gateway.now, **parts
    )
    made.unsigned = Recorder(connect=connect, clock=lambda: gateway.now, **parts)
    yield made
    gateway.reset()


def expected(gateway: Gateway, feed: Feed, schema: str, *spans: tuple[int, int]) -> pl.DataFrame:
    """What the market held in these spans, by the vendor's index time."""
    parts = []
    for start, end in spans:
        found = gateway.market.records(feed.dataset, schema, feed.symbols, feed.stype, start, end)
        parts.append(
            pl.DataFrame({"ts_event": found["ts_event"].astype("i8"), "number": found["instrument_id"]})
        )
    return pl.concat(parts).sort("ts_event", "number")


def held(ws: SimpleNamespace, table: str, feed: Feed) -> pl.DataFrame:
    """What the lake holds, in the same form."""
    ids = {
        c.symbol: c.number for c in ws.gateway.market.resolve(feed.dataset, "ALL_SYMBOLS", "", day_of(START))
    }
    rows = ws.lake.scan(table, context=ME).collect()
    number = pl.col("symbol").replace_strict(ids, return_dtype=pl.UInt32)
    return rows.select(pl.col("ts_event").to_physical().cast(pl.Int64), number=number).sort(
        "ts_event", "number"
    )


def owned(ws: SimpleNamespace, feed: Feed, schema: str) -> list[tuple[int, int]]:
    """The spans of one schema that count as owned."""
    query = "SELECT DISTINCT start_ns, end_ns FROM coverage WHERE table_name = :t ORDER BY start_ns"
    return [(r["start_ns"], r["end_ns"]) for r in ws.registry.rows(query, t=f"{feed.dataset}/{schema}")]


def sound(ws: SimpleNamespace, feed: Feed, *, more: bool = False) -> None:
    """Exactly what is owned is in the lake, each row once, and nothing is left lying about.

    With `more`, what was heard beside the owned spans may be there too, once.
    """
    for schema in feed.schemas:
        spans = owned(ws, feed, schema)
        assert spans
        have, want = held(ws, f"{feed.dataset}/{schema}", feed), expected(ws.gateway, feed, schema, *spans)
        if more:
            market = expected(ws.gateway, feed, schema, (START, END)).group_by(pl.all()).len()
            heard = have.group_by(pl.all()).len().join(market, on=have.columns, how="left", suffix="_sent")
            assert heard.filter(pl.col("len") > pl.col("len_sent").fill_null(0)).is_empty()
            have = have.join(want, on=have.columns, how="semi")
        assert have.equals(want)
    assert [p.name for p in (ws.root / "live" / feed.tag).iterdir() if p.name != ".lock"] == []


LIMITS = Limits(until=UNTIL, patience=IMPATIENT, journal=HOUR // 3)


def test_a_session_is_recorded(ws):
    done = ws.recorder.record(FEED, context=ME, limits=LIMITS)
    assert (done.sessions, done.gaps) == (1, ())
    assert done.segments >= 4
    sound(ws, FEED)
    assert owned(ws, FEED, "trades")[0][0] == START
    assert owned(ws, FEED, "trades")[0][1] >= UNTIL


@pytest.mark.parametrize("kind", ["cut", "half", "error"])
def test_a_line_that_ends_is_taken_up_again_without_a_gap(ws, kind):
    ws.gateway.next(kind, after=60)
    done = ws.recorder.record(FEED, context=ME, limits=LIMITS)
    assert (done.sessions, done.gaps) == (2, ())
    assert ws.made[0] is None
    assert START < ws.made[1] < UNTIL
    assert len(owned(ws, FEED, "trades")) == 2
    sound(ws, FEED)


def test_what_cannot_be_replayed_is_a_gap(ws):
    ws.gateway.replay = 0
    ws.gateway.next("cut", after=60, away=HOUR // 4)
    done = ws.recorder.record(FEED, context=ME, limits=LIMITS)
    assert [(g.schema, g.why) for g in done.gaps] == [("ohlcv-1m", "connection"), ("trades", "connection")]
    sound(ws, FEED)
    missing = ws.recorder.missing(FEED)
    assert [(o.schema, o.start, o.end) for o in missing] == [
        (g.schema, g.start, g.end) for g in sorted(done.gaps, key=lambda g: FEED.schemas.index(g.schema))
    ]
    lines = ws.door.ledger.entries(kind="live gap")
    assert [(e.body["table"], e.body["why"]) for e in lines] == [
        ("GLBX.MDP3/ohlcv-1m", "connection"), ("GLBX.MDP3/trades", "connection"),
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "why"), [("flag", "channel"), ("skip", "slow reader")])
def test_what_the_vendor_says_is_lost_is_a_gap(ws, kind, why):
    ws.gateway.next(kind, after=60, records=5)
    done = ws.recorder.record(FEED, context=ME, limits=LIMITS)
    assert done.sessions == 1
    assert {g.why for g in done.gaps} == {why}
    sound(ws, FEED, more=True)
    assert {o.schema for o in ws.recorder.missing(FEED)} == {g.schema for g in done.gaps}


def test_a_line_that_says_nothing_is_given_up(ws):
    ws.gateway.next("silence", after=60)
    quiet = Limits(until=UNTIL, quiet=1.5, patience=IMPATIENT, journal=HOUR // 3)
    done = ws.recorder.record(FEED, context=ME, limits=quiet)
    assert (done.sessions, done.gaps) == (2, ())
    sound(ws, FEED)


def test_another_process_goes_on_where_one_was_killed(ws):
    from researchkit.data.gaps import Clocks
    from researchkit.data.segments import Journal

    first = ws.recorder.record(FEED, context=ME, limits=Limits(until=START + HOUR // 2, patience=IMPATIENT))
    ended = dict(o for o in [(s, owned(ws, FEED, s)[-1][1]) for s in FEED.schemas])
    ws.gateway.reset(max(ended.values()), END, then="idle")
    assert first.sessions == 1
    clocks = Clocks(dict(ended), dict(ended), min(ended.values()))
    Journal(ws.root / "live" / FEED.tag, 9, FEED, clocks).close()
    (ws.root / "live" / FEED.tag / "00000010.journal").write_bytes(b'{"fe')
    done = ws.recorder.record(FEED, context=ME, limits=LIMITS)
    assert (done.sessions, done.gaps) == (1, ())
    assert ws.made[-1] == min(ended.values())
    sound(ws, FEED)
    assert ws.recorder.missing(FEED) == []


def test_a_wrong_key_is_said_once_and_shown_never(ws):
    ws.key = "db-a-key-that-nobody-knows"
    with pytest.raises(Refusal, match=r"Authentication failed.*check the secret") as caught:
        ws.recorder.record(FEED, context=ME, limits=LIMITS)
    assert len(ws.made) == 1
    assert "nobody-knows" not in str(caught.value) + repr(caught.value.__context__)


def test_a_gateway_that_is_not_there_is_tried_and_named(ws):
    ws.gateway.next("refuse")
    down = Recorder(
        connect=lambda feed, start: LiveSession(address("live_url", "tcp://127.0.0.1:9?secret=v"), Secret("k" * 20), feed),
        raw=ws.raw, lake=ws.lake, registry=ws.registry, door=ws.door, folder=ws.root / "live", signed=lambda r: True,
    )  # fmt: skip
    with pytest.raises(Refusal, match=r"live gateway 127.0.0.1:9: Connection to 127.0.0.1:9 failed"):
        down.record(FEED, context=ME, limits=LIMITS)


def test_nothing_is_heard_without_a_sign_off(ws):
    with pytest.raises(AccessDenied, match="sign-off"):
        ws.unsigned.record(FEED, context=ME, limits=LIMITS)
    assert ws.made == []


def test_a_gap_is_bought_and_nothing_else(ws, vendor):
    vendor.clear()
    ws.gateway.replay = 0
    ws.gateway.next("cut", after=60, away=HOUR // 4)
    ws.recorder.record(FEED, context=ME, limits=LIMITS)
    missing = ws.recorder.missing(FEED)
    settings = Settings(ws.root, vendor_url=vendor.url(call=50, month=500))
    secrets = SimpleNamespace(get=lambda name: Secret(vendor.key))
    shop = Purchases(
        vendor=open_vendor(settings, lambda: secrets, patience=IMPATIENT), raw=ws.raw, lake=ws.lake, sleep=lambda s: None,
        registry=ws.registry, door=ws.door, folder=ws.root / "purchases", signed=lambda resource: True,
    )  # fmt: skip
    bought = [placed.order for order in ws.recorder.whole(FEED) for placed in shop.buy(order, context=ME)]
    assert {(o.schema, o.start, o.end) for o in bought} == {(o.schema, o.start, o.end) for o in missing}
    assert ws.recorder.missing(FEED) == []
    for schema in FEED.schemas:
        span = min(s for s, _ in owned(ws, FEED, schema)), max(e for _, e in owned(ws, FEED, schema))
        assert held(ws, f"{FEED.dataset}/{schema}", FEED).equals(expected(ws.gateway, FEED, schema, span))
    vendor.clear()
