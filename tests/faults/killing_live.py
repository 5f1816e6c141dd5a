"""Record a session, die at an instant, go on: every trade is kept once, whenever that was.

A gateway from memory has a trade every second of a minute and replays from whatever instant it is asked for. Each
life records until the end and is killed at one arrival at one durable site; the next life goes on in the same folder.
A test runs this file as a program, so that it forks from a process without threads.

    echo '{"every": 1}' | python tests/faults/killing_live.py      # kill at every arrival
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import alembic.runtime.environment  # noqa: F401
import databento_dbn  # noqa: F401
import numpy as np
import regopy  # noqa: F401
import sqlalchemy.dialects.sqlite  # noqa: F401
import tink.streaming_aead  # noqa: F401
import zstandard  # noqa: F401

from researchkit.context import Context, Principal
from researchkit.data.dbn import read
from researchkit.data.door import Door
from researchkit.data.envelope import layout
from researchkit.data.gaps import MAPPING
from researchkit.data.live import Limits, Recorder
from researchkit.data.raw import RawZone
from researchkit.data.registry import Registry
from researchkit.data.segments import feed_of
from researchkit.security.keys import Keyring
from researchkit.security.ledger import Ledger
from researchkit.security.policy import Policy, install

ME = Context(Principal("engineer3", ("data-engineer",)))
FEED = feed_of("TEST.LIVE", ["trades"], ["AAA"])
SECOND, COUNT = 10**9, 60
START = 1_704_205_800 * SECOND
NAMED = struct.pack("<BBHIQB71sB71sQQ", 44, MAPPING, 0, 118, START, 1, b"AAA", 1, b"AAA", 0, 0)


def trade(number: int) -> bytes:
    """The trade of a second."""
    made = np.zeros(1, layout("trades"))
    made["length"], made["rtype"], made["instrument_id"], made["sequence"] = 12, 0, 118, number
    made["ts_event"] = made["ts_recv"] = START + number * SECOND
    made["action"], made["side"], made["price"], made["size"] = b"T", b"A", 10**11, 1
    return made.tobytes()


class Memory:
    """A gateway that replays everything, and says so."""

    over = True

    def __init__(self, start: int | None) -> None:
        self.start = START if start is None else start
        first = -(-(self.start - START) // SECOND)
        done = struct.pack("<BBHIQ", 80, 0x17, 0, 0, START + COUNT * SECOND) + bytes(303) + b"\3"
        self.left = [NAMED, *map(trade, range(first, COUNT)), done]

    def take(self, seconds: float) -> list[bytes]:
        """Seven at a time."""
        taken, self.left = self.left[:7], self.left[7:]
        return taken

    def close(self) -> None:
        """Nothing is open."""


class Slow(Memory):
    """One message at a time, so that journals change where their time is over."""

    def take(self, seconds: float) -> list[bytes]:
        """One at a time."""
        taken, self.left = self.left[:1], self.left[1:]
        return taken


def life(root: Path) -> dict[str, Any]:
    """Record until the end, and say what there is."""
    install(root / "policy")
    door = Door(Policy(root / "policy"), Ledger(f"sqlite:///{root}/ledger.db"))
    registry, keys = Registry(f"sqlite:///{root}/catalog.db"), Keyring(root / "keys")
    raw = RawZone(root / "raw", registry=registry, keyring=keys, door=door, immutable=False)
    lake = SimpleNamespace(ingest=lambda sha256, context: None)
    recorder = Recorder(
        connect=lambda feed, start: Slow(start), raw=raw, lake=lake, registry=registry, door=door,
        folder=root / "live", signed=lambda resource: True, clock=lambda: START + COUNT * SECOND,
    )  # fmt: skip
    done = recorder.record(
        FEED, context=ME, limits=Limits(until=START + (COUNT - 1) * SECOND, journal=20 * SECOND)
    )
    numbers = [
        n
        for o in raw.objects()
        for n in read(raw.get(o.sha256, context=ME, action="ingest"))["sequence"].to_list()
    ]
    return {
        "trades": sorted(numbers),
        "missing": [str(o) for o in recorder.missing(FEED)],
        "gaps": len(done.gaps),
        "left": sorted(p.name for p in (root / "live" / FEED.tag).iterdir() if p.name != ".lock"),
        "sound": all(f.ok for f in raw.verify()),
    }


def fork(root: Path, out: Path, *, kill: str = "", count: Path | None = None) -> int:  # how it ended
    """One life in a process of its own."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        if count is not None:
            os.environ.update({"RESEARCHKIT_KILL_COUNT": str(count), "RESEARCHKIT_KILL_AT": kill})
        out.write_text(json.dumps(life(root)))
        code = 0
    except BaseException as e:
        out.write_text(json.dumps({"failed": repr(e)}))
    finally:
        os._exit(code)
    return 0


def main() -> None:
    """Say what was wrong, of how many kills."""
    every, wrong, kills = int(json.loads(sys.stdin.read() or "{}").get("every", 1)), [], 0
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        fork(here / "whole", here / "whole.json", count=here / "count", kill="nowhere")
        whole = json.loads((here / "whole.json").read_text())
        seen: dict[str, int] = {}
        instants = []
        for line in (here / "count").read_text().split():
            seen[line] = seen.get(line, 0) + 1
            instants.append(f"{line}:{seen[line]}")
        own = [i for i in instants if i.split(":")[0] == "segment"][1:3]  # this site is reached nowhere else
        chosen = list(dict.fromkeys([*instants[::every], *own]))
        for number, at in enumerate(chosen):
            root, out = here / str(number), here / f"{number}.json"
            first = fork(root, out, kill=at, count=here / f"{number}.count")
            fork(root, out)
            found, kills = json.loads(out.read_text()), kills + (first == -signal.SIGKILL)
            if found != whole or first != -signal.SIGKILL:
                wrong.append({"at": at, "ended": first, "found": found})
    print(
        json.dumps({"whole": whole, "instants": len(instants), "kills": kills, "wrong": wrong, "at": chosen})
    )


if __name__ == "__main__":
    main()
