"""Gateways that say what cannot be: other names, other clocks, refusals and rows that no table takes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from gateway import KEY, Gateway
from spoken import BOTH, FAR, MINUTE, SECOND, START, TRADES, Script, bar, error, named, trade, word

from researchkit.context import Context, Principal
from researchkit.data.door import Door
from researchkit.data.lake import Lake
from researchkit.data.line import Patience, Refusal
from researchkit.data.listening import LiveSession
from researchkit.data.live import Limits, Recorded, Recorder
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.data.segments import Feed, feed_of
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, grant, install
from researchkit.security.secret import Secret
from researchkit.settings import address

ME = Context(Principal("engineer3", ("data-engineer", "quant")))


@pytest.fixture
def ws(tmp_path: Path) -> SimpleNamespace:
    """A recorder with everything behind it, and sessions that are scripted."""
    install(tmp_path / "policy")
    for schema in BOTH.schemas:
        grant(tmp_path / "policy", "quant", action="read", resource=f"{BOTH.dataset}/{schema}")
    door = Door(Policy(tmp_path / "policy"), Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    registry = Registry(f"sqlite:///{tmp_path}/catalog.db")
    raw = RawZone(
        tmp_path / "raw", registry=registry, keyring=Keyring(tmp_path / "keys"), door=door, immutable=False
    )
    lake = Lake(tmp_path / "lake", registry=registry, raw=raw, door=door)
    made = SimpleNamespace(door=door, registry=registry, lake=lake, asked=[], now=START + 90 * SECOND)
    made.folder = tmp_path / "live"

    def record(feed: Feed, until: float, *sessions: Script | Callable[[int | None], Script]) -> Recorded:
        left = list(sessions)

        def connect(feed: Feed, start: int | None) -> Script:
            made.asked.append(None if start is None else (start - START) / SECOND)
            if not left:
                raise Refusal("no more sessions", again=False)
            one = left.pop(0)
            return one if isinstance(one, Script) else one(start)

        made.recorder = Recorder(
            connect=connect, signed=lambda resource: True, clock=lambda: made.now, raw=raw, lake=lake,
            registry=registry, door=door, folder=made.folder,
        )  # fmt: skip
        limits = Limits(
            until=START + round(until * SECOND), patience=Patience(attempts=2, sleep=lambda s: None)
        )
        return made.recorder.record(feed, context=ME, limits=limits)

    made.record = record
    return made


def rows(ws: SimpleNamespace, schema: str) -> list[tuple[float, str]]:
    """Seconds after the start, and symbols."""
    found = ws.lake.scan(f"GLBX.MDP3/{schema}", context=ME).collect().sort("ts_event")
    times = found["ts_event"].to_physical().to_list()
    return [(round((t - START) / SECOND, 3), s) for t, s in zip(times, found["symbol"], strict=True)]


def seconds(ws: SimpleNamespace, schema: str = "trades") -> list[int]:
    """The same without symbols."""
    return [round(at) for at, _ in rows(ws, schema)]


def owned(ws: SimpleNamespace, schema: str = "trades") -> list[tuple[float, float]]:
    """Spans, in seconds after the start."""
    found = ws.registry.rows(
        "SELECT start_ns, end_ns FROM coverage WHERE table_name = :t ORDER BY start_ns",
        t=f"GLBX.MDP3/{schema}",
    )
    return [((r["start_ns"] - START) / SECOND, (r["end_ns"] - START) / SECOND) for r in found]


def missing(ws: SimpleNamespace, feed: Feed) -> list[tuple[str, float, float]]:
    """Schemas and spans, in seconds after the start."""
    return [
        (o.schema, (o.start - START) / SECOND, (o.end - START) / SECOND) for o in ws.recorder.missing(feed)
    ]


def test_records_keep_the_name_that_held_when_they_came(ws):
    heard = [named(b"ESH4"), bar(0), trade(5), trade(10), named(b"NQH4"), trade(20), bar(1)]
    ws.now = START + 300 * SECOND
    ws.record(BOTH, 180, Script([*heard, word(START + 180 * SECOND)]))
    assert rows(ws, "trades") == [(5.0, "ESH4"), (10.0, "ESH4"), (20.0, "NQH4")]
    assert rows(ws, "ohlcv-1m") == [(0.0, "ESH4"), (60.0, "NQH4")]


def test_carried_records_keep_their_name_in_the_next_journal(tmp_path):
    from researchkit.data.segments import cut
    from researchkit.data.tape import Tape

    found = []

    def ready(path: Path) -> None:
        found.append(cut(path))
        path.unlink()

    tape = Tape(tmp_path, TRADES, ready, most_time=10 * SECOND)
    tape.begin(START, {})
    tape.write([named(b"ESH4"), trade(1), trade(12), named(b"NQH4"), trade(13), word(START + 40 * SECOND)])
    tape.finish()
    said = [(p.symbols(part.names)[7], len(r)) for p in found for part, r in p.rows.items()]
    assert said == [("ESH4", 1), ("ESH4", 1), ("NQH4", 1)]


def test_a_trade_closes_no_bar(ws):
    def again(start: int | None) -> Script:
        return Script(
            [named(b"ESH4"), bar(0), trade(60.1), bar(1), *[word(START + 130 * SECOND, 3)] * 2], start
        )

    ws.now = START + 300 * SECOND
    done = ws.record(BOTH, 130, Script([named(b"ESH4"), trade(10), trade(60.1)]), again)
    assert (ws.asked, done.gaps) == ([None, 0.0], ())
    assert seconds(ws, "ohlcv-1m") == [0, 60]
    assert seconds(ws) == [10, 60]


def test_a_refused_subscription_ends_the_recording_in_the_words_of_the_gateway(ws):
    failed = error(b"Subscription request 2 for ohlcv-1m failed: not entitled", 6)
    with pytest.raises(Refusal, match="failed: not entitled; nothing of ohlcv-1m counts as recorded"):
        ws.record(BOTH, 60, Script([named(b"ESH4"), failed, trade(10), trade(20), word(START + 80 * SECOND)]))
    assert seconds(ws) == [10, 20]
    assert owned(ws, "ohlcv-1m") == []


def test_an_error_before_the_header_is_told(ws):
    early = Script([error(b"no such dataset today", 5)])
    early.start = None
    with pytest.raises(Refusal, match="the gateway says: no such dataset today"):
        ws.record(TRADES, 60, early)


def test_a_schema_that_is_long_out_of_reach_costs_the_others_no_replay(ws):
    ws.record(BOTH, 60, Script([named(b"ESH4"), bar(0), trade(5), word(START + 70 * SECOND)]))
    ws.now = START + 86_400 * SECOND
    reach, borders = 3_600 * SECOND, {"trades": START + 86_390 * SECOND, "ohlcv-1m": START + MINUTE}
    for known in (borders, {"trades": borders["trades"]}, {"ohlcv-1m": borders["ohlcv-1m"]}):
        with pytest.raises(Refusal, match="no more sessions"):
            ws.recorder.connect(BOTH, known, reach)
    assert ws.asked[1:] == [86_390.0, 86_390.0, None]


def test_a_symbol_that_the_gateway_does_not_know_owns_nothing(ws):
    feed = feed_of("GLBX.MDP3", BOTH.schemas, ["ES.FUT", "XX.FUT"])
    heard = [named(b"ESH4"), trade(5), error(b"Failed to resolve XX.FUT", 4), word(START + 80 * SECOND)]
    with pytest.raises(Refusal, match=r"resolve XX.FUT; nothing of ohlcv-1m, trades counts"):
        ws.record(feed, 60, Script(heard))
    assert (owned(ws), owned(ws, "ohlcv-1m")) == ([], [])


def test_a_replay_that_is_not_kept_any_more_is_not_asked_for_again(ws):
    aged = Script([error(b"Subscription: replay data aged out", 8)], START + 20 * SECOND)
    fresh = Script([named(b"ESH4"), *map(trade, (52, 55)), word(START + 80 * SECOND)], START + 50 * SECOND)
    done = ws.record(TRADES, 60, Script([named(b"ESH4"), trade(5), trade(20)]), aged, fresh)
    assert ws.asked == [None, 20.0, None]
    assert [g.why for g in done.gaps] == ["connection"]
    assert missing(ws, TRADES) == [("trades", 20.0, 50.0)]
    assert seconds(ws) == [5, 52, 55]


def test_what_the_gateway_complains_of_wears_out_patience(ws):
    full = [Script([error(b"User has reached their open connection limit", 3)]) for _ in range(3)]
    with pytest.raises(Refusal, match="open connection limit"):
        ws.record(TRADES, 60, *full)
    assert len(ws.asked) == 2


@pytest.mark.parametrize("stamp", [START + 120 * SECOND, 2**63, FAR])
def test_a_heartbeat_that_cannot_be_moves_nothing(ws, stamp):
    heard = [named(b"ESH4"), trade(5), word(stamp), *map(trade, range(20, 26))]
    with pytest.raises(Refusal, match="no more sessions"):
        ws.record(TRADES, 60, Script(heard))
    assert owned(ws) == [(0.0, 25.0)]
    assert seconds(ws) == [5, 20, 21, 22, 23, 24]


def test_a_heartbeat_that_cannot_be_is_counted(ws):
    heard = [named(b"ESH4"), trade(5), word(FAR), trade(20), word(START + 70 * SECOND)]
    assert ws.record(TRADES, 60, Script(heard)).odd == 1


def test_a_slow_clock_costs_no_row_and_doubles_none(ws):
    def again(start: int | None) -> Script:
        ws.now = START + 100 * SECOND
        return Script([named(b"ESH4"), *map(trade, range(5, 50, 5)), word(START + 60 * SECOND, 3)], start)

    ws.now = START
    done = ws.record(TRADES, 60, Script([named(b"ESH4"), *map(trade, (5, 10, 20))]), again)
    assert (ws.asked, done.odd, done.gaps) == ([None, 5.0], 2, ())
    assert seconds(ws) == [*range(5, 50, 5)]


@pytest.mark.parametrize(
    ("stamp", "flags"), [(START + 3_600 * SECOND, 0), (START + 3_600 * SECOND, 8), (0, 8)]
)
def test_a_record_with_an_odd_time_is_kept_and_moves_nothing(ws, stamp, flags):
    heard = [trade(i, **({"stamp": stamp, "flags": flags} if i == 10 else {})) for i in range(1, 60)]
    done = ws.record(TRADES, 62, Script([named(b"ESH4"), *heard, word(START + 62 * SECOND)]))
    assert (done.odd, done.gaps) == (1, ())
    assert seconds(ws) == [*range(1, 59)]
    assert owned(ws) == [(0.0, 59.0)]


def test_a_record_without_a_time_is_set_aside_and_the_others_are_not(ws):
    heard = [trade(1), trade(2, stamp=FAR), trade(3), bar(0), word(START + 70 * SECOND)]
    done = ws.record(BOTH, 70, Script([named(b"ESH4"), *heard]))
    assert (done.odd, "is set aside" in done.trouble) == (1, True)
    assert seconds(ws) == [1, 3]
    assert (owned(ws), owned(ws, "ohlcv-1m")) == ([], [(0.0, 60.0)])
    assert missing(ws, BOTH) == [("trades", 0.0, 65.0)]


@pytest.mark.parametrize("start", [0, START - 366 * 86_400 * SECOND, START + 200 * SECOND, FAR])
def test_a_session_that_begins_nowhere_is_refused(ws, start):
    with pytest.raises(Refusal, match="its session begins with"):
        ws.record(TRADES, 60, *[Script([trade(5)], start) for _ in range(2)])
    assert owned(ws) == []


def test_what_no_table_takes_is_set_aside_and_named(ws):
    ws.now = START + 900 * SECOND
    heard = [trade(1), bar(0, 1), bar(1, 2), trade(100), word(START + 180 * SECOND)]
    done = ws.record(BOTH, 180, Script([named(b"ESH4"), *heard]))
    assert "holds bars of publishers [1, 2]" in done.trouble
    assert seconds(ws) == [1, 100]
    assert (owned(ws), owned(ws, "ohlcv-1m")) == ([(0.0, 175.0)], [])
    assert missing(ws, BOTH) == [("ohlcv-1m", 0.0, 120.0)]
    assert [o.schema for o in ws.recorder.whole(BOTH)] == ["ohlcv-1m"]
    (laid,) = ws.recorder.aside(BOTH)
    assert (laid.table, (ws.folder / BOTH.tag / "aside" / laid.name).exists()) == ("GLBX.MDP3/ohlcv-1m", True)
    (line,) = ws.door.ledger.entries(kind="live gap")
    assert line.body["file"] == laid.name
    later = [named(b"ESH4"), bar(5), trade(310), *[word(START + 420 * SECOND, 3)] * 2]
    again = ws.record(BOTH, 420, Script(later, START + 240 * SECOND))
    assert (again.trouble, seconds(ws), seconds(ws, "ohlcv-1m")) == ("", [1, 100, 310], [300])
    assert missing(ws, BOTH) == [("ohlcv-1m", 0.0, 240.0), ("trades", 175.0, 240.0)]


def test_a_storm_of_flags_is_one_gap_and_costs_no_row(ws):
    heard = [trade(1), *(trade(i, flags=4) for i in range(5, 59)), word(START + 70 * SECOND)]
    done = ws.record(TRADES, 70, Script([named(b"ESH4"), *heard]))
    assert [(g.why, (g.start - START) // SECOND, (g.end - START) // SECOND) for g in done.gaps] == [
        ("channel", 1, 5)
    ]
    assert seconds(ws) == [1, *range(5, 59)]
    assert done.segments == 1


def test_what_was_skipped_before_a_bar_is_missing(ws):
    ws.now = START + 300 * SECOND
    heard = [
        trade(10),
        word(START + 62 * SECOND, 2),
        bar(0),
        trade(70),
        trade(80),
        word(START + 140 * SECOND),
    ]
    done = ws.record(BOTH, 130, Script([named(b"ESH4"), *heard]))
    assert {(g.schema, g.start - START, g.end - START) for g in done.gaps} == {
        ("trades", 10 * SECOND, 67 * SECOND), ("ohlcv-1m", 0, 2 * MINUTE),
    }  # fmt: skip
    assert rows(ws, "trades") == [(10.0, "ESH4"), (70.0, "ESH4"), (80.0, "ESH4")]
    assert owned(ws)[1][0] == 67.0


def test_the_key_is_in_no_log_and_no_repr(tmp_path, gateway: Gateway, caplog):
    gateway.reset()
    with caplog.at_level(logging.DEBUG):
        session = LiveSession(address("live_url", gateway.url()), Secret(KEY), TRADES)
        session.take(2.0)
        shown = repr(session._client) + repr(session)
        session.close()
    assert KEY[-5:] not in caplog.text + shown
    gateway.reset()
