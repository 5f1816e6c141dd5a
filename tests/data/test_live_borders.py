"""Random sessions of a known market: nothing is owned that may be missing, and each row is held once under its name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from spoken import BOTH, FAR, SECOND, START, bar, named, trade, word

from researchkit.data.gaps import Clocks, Losses, Watch
from researchkit.data.segments import cut
from researchkit.data.shelving import owning
from researchkit.data.tape import Tape

LENGTH = 600  # seconds of the market
Event = tuple[float, str, bytes, float]  # when it is sent, what, the message, its index time; seconds


def market(chance: Random) -> list[Event]:
    """What happens, in the order in which it is sent."""
    found: list[Event] = [(0.0, "name", named(b"AAA"), 0.0)]
    at = 0.0
    while (at := round(at + 0.01 + chance.expovariate(0.2) + 70 * (chance.random() < 0.02), 3)) < LENGTH:
        found.append((at, "trades", trade(at, flags=4 * (chance.random() < 0.03)), at))
    for minute in range(LENGTH // 60):
        if chance.random() < 0.8:
            found.append((60 * (minute + 1) + chance.uniform(0, 2), "ohlcv-1m", bar(minute), 60.0 * minute))
    for symbol in (b"ESH4", b"NQH4", b"ESM4")[: chance.randint(0, 3)]:
        found.append((chance.uniform(1, LENGTH), "name", named(symbol), 0.0))
    return sorted(found, key=lambda event: event[0])


def session(chance: Random, events: list[Event], begin: float, end: float, since: float | None) -> list:
    """What the gateway sends between two instants, and when: names, a replay, records, heartbeats and lies."""
    names = [e for e in events if e[1] == "name" and e[0] <= (begin if since is None else since)]
    sent = [(begin, names[-1][2])]
    if since is not None:
        past = [e for e in events if e[0] <= begin and (e[0] > since if e[1] == "name" else e[3] >= since)]
        sent += [(begin, e[2]) for e in past] + [(begin, word(START + round(begin * SECOND), 3))] * 2
    last = begin
    for at, what, message, index in events:
        if not begin < at <= end or (what != "name" and since is None and index < begin):
            continue
        while at - last > 10:
            last += 10
            lie = chance.choice([FAR, 2**63, 0, START + round((last + 5_000) * SECOND)])
            sent += [(last, word(lie))] * (chance.random() < 0.1) + [
                (last, word(START + round(last * SECOND)))
            ]
        lost = what == "trades" and chance.random() < 0.02
        sent.append((at, word(START + round(at * SECOND), 2) if lost else message))
        last = at
    return sent


def recorded(chance: Random, events: list[Event], folder: Path) -> SimpleNamespace:
    """Sessions that are cut, killed, replayed or not, until the market is over."""
    made, clock = SimpleNamespace(rows=[], owned=[]), SimpleNamespace(now=START)

    def ready(path: Path) -> None:
        if (found := cut(path)) is not None:
            for part, messages in found.rows.items():
                at = found.feed.kinds[messages[0][1]].at
                made.rows += [
                    (part.schema, round((at(m) - START) / SECOND, 3), found.symbols(part.names)[7])
                    for m in messages
                ]
            made.owned += [
                (o["table_name"].partition("/")[2], o["start_ns"], o["end_ns"]) for o in owning(found)
            ]
        path.unlink()

    begin, borders = 0.0, {}
    while begin < LENGTH:
        most = chance.choice([20, 60, 300]) * SECOND
        tape = Tape(folder, BOTH, ready, most_time=most, clock=lambda: clock.now)
        tape.home()
        end, oldest = begin + chance.expovariate(1 / 150), min(borders.values(), default=0)
        replay = bool(borders) and chance.random() < 0.6
        since = (oldest - START) / SECOND if replay else None
        clock.now = START + round((begin + 1) * SECOND)
        tape.begin(
            oldest if replay else START + round(begin * SECOND), borders, replays=len(borders) * replay
        )
        sent = session(chance, events, begin, end, since)
        while sent:
            piece, sent = sent[: (count := chance.randint(1, 30))], sent[count:]
            clock.now = START + round((piece[-1][0] + chance.random()) * SECOND)
            tape.write([message for _, message in piece])
        borders = tape.borders()
        if chance.random() < 0.5:
            tape.finish()
        begin = end + chance.choice([0, 0.5, 30])
    Tape(folder, BOTH, ready).home()
    return made


@pytest.mark.parametrize("seed", range(25))
def test_nothing_is_owned_that_may_be_missing(tmp_path, seed):
    chance = Random(seed)
    events = market(chance)
    made = recorded(chance, events, tmp_path)
    true = {(what, index) for _, what, _, index in events if what != "name"}
    held = Counter((schema, at) for schema, at, _ in made.rows)
    assert set(held) <= true
    assert {row for row, count in held.items() if count > 1} == set()
    for schema, start, end in made.owned:
        inside = {(s, at) for s, at in true if s == schema and start <= START + round(at * SECOND) < end}
        assert inside <= set(held)
    names = [(at, message) for at, what, message, _ in events if what == "name"]
    for schema, at, symbol in made.rows:
        if schema == "trades":
            assert symbol.encode() in [message for sent, message in names if sent <= at][-1]


def test_a_bar_does_not_open_again_what_a_heartbeat_closed():
    watch = Watch(BOTH.kinds, Clocks.begin(BOTH.kinds, START), Losses())
    for message in (trade(10), word(START + 59 * SECOND), bar(0)):
        assert watch.see(message) == ""
    assert watch.clocks.borders(BOTH.kinds) == {"trades": START + 54 * SECOND, "ohlcv-1m": START}
