"""What a gateway says, from memory: the records, names, words and errors of one instrument, and a session of them."""

from __future__ import annotations

from collections.abc import Sequence

import databento_dbn as dbn
import numpy as np

from researchkit.data.segments import feed_of

BOTH = feed_of("GLBX.MDP3", ["trades", "ohlcv-1m"], ["ES.FUT"])
TRADES = feed_of("GLBX.MDP3", ["trades"], ["ES.FUT"])
SECOND, MINUTE = 10**9, 60 * 10**9
START = 1_704_205_800 * SECOND
FAR = 2**64 - 1


class Script:
    """A session that sends what it was given, and hangs up."""

    over = True

    def __init__(self, messages: Sequence[bytes], start: int = START) -> None:
        self.start, self.left = start, list(messages)

    def take(self, seconds: float) -> list[bytes]:
        """All of it."""
        taken, self.left = self.left, []
        return taken

    def close(self) -> None:
        """Nothing is open."""


def filled(kind: type, **fields: object) -> bytes:
    """A record."""
    made = np.zeros(1, kind._dtypes)
    made["length"] = made.dtype.itemsize // 4
    for name, value in fields.items():
        made[name] = value
    return made.tobytes()


def named(symbol: bytes, number: int = 7) -> bytes:
    """What names an instrument."""
    return filled(
        dbn.SymbolMappingMsg, rtype=0x16, instrument_id=number, ts_event=START, stype_in=4, stype_out=1,
        stype_in_symbol=b"ES.FUT", stype_out_symbol=symbol,
    )  # fmt: skip


def trade(at: float, *, stamp: int | None = None, flags: int = 0) -> bytes:
    """A trade, so many seconds after the start; its sequence number is that second."""
    true = START + round(at * SECOND)
    return filled(
        dbn.TradeMsg, rtype=0, publisher_id=1, instrument_id=7, ts_event=true - 1_000, price=10**11, size=1,
        ts_recv=true if stamp is None else stamp, action=b"T", side=b"B", flags=flags, sequence=round(at),
    )  # fmt: skip


def bar(minute: int, publisher: int = 1) -> bytes:
    """The bar of a minute."""
    ohlc = dict.fromkeys(("open", "high", "low", "close"), 10**11)
    at = START + minute * MINUTE
    return filled(
        dbn.OHLCVMsg, rtype=33, publisher_id=publisher, instrument_id=7, ts_event=at, volume=5, **ohlc
    )


def word(stamp: int, code: int = 0) -> bytes:
    """A heartbeat, or another word of the gateway."""
    return filled(dbn.SystemMsg, rtype=0x17, ts_event=stamp, msg=b"word", code=code)


def error(text: bytes, code: int) -> bytes:
    """An error of the gateway."""
    return filled(dbn.ErrorMsg, rtype=0x15, ts_event=START, err=text, code=code)
