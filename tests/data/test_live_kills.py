"""A recording that is killed anywhere and begun again keeps every trade once."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "faults" / "killing_live.py"


def test_every_trade_is_kept_once_whenever_the_recorder_dies():
    run = subprocess.run(
        [sys.executable, "-W", "ignore", PROGRAM],
        input='{"every": 9}',
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert told["whole"]["trades"] == list(range(59))  # the last second is not complete
    assert told["wrong"] == []
    assert told["kills"] == len(told["at"]) >= 6
    assert {at.split(":")[0] for at in told["at"]} >= {"segment", "ingest"}
