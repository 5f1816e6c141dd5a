"""A lake that was killed at any instant and used again is the lake that nobody killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from killing_lake import SITES

pytestmark = pytest.mark.xdist_group("lake kills")
PROGRAM = Path(__file__).with_name("killing_lake.py")
# "commit", "upkeep", "pin", "object", "ingest": here. "order", "delivery": test_order_kills. "segment": test_live_sessions.


def test_killed_once_at_each_kind_of_instant_and_done_again() -> None:
    asked = json.dumps({"every": False})
    done = subprocess.run([sys.executable, PROGRAM], input=asked, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["pools"] == [], "lives are forked from a process that has computed something"
    untouched, *killed = told["lives"]
    assert (untouched["status"], untouched["faults"]) == (0, [])
    assert untouched["same"]["restated"][0]["retracted"] == 1
    assert untouched["same"]["hashes"]["ticks then"] == untouched["same"]["hashes"]["ticks of the first pin"]
    assert untouched["same"]["hashes"]["ticks now"] != untouched["same"]["hashes"]["ticks then"]
    assert {life["at"].rpartition(":")[0] for life in killed} == {
        f"{site}:{when}" for site in SITES for when in ("before", "after")
    }
    for life in killed:
        assert (life["status"], life["again"], life["faults"]) == (-9, 0, []), life["at"]
        assert life["same"] == untouched["same"], life["at"]
