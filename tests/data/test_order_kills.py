"""An order survives a kill at each of its instants, and is bought once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from vendor import KEY, Vendor

pytestmark = pytest.mark.xdist_group("vendor")
PROGRAM = Path(__file__).with_name("order_kills.py")


def test_a_kill_at_any_instant_of_an_order_buys_nothing_twice(vendor: Vendor) -> None:
    vendor.clear()
    task = {"vendor_url": vendor.url(), "key": KEY, "stride": 5}  # every fifth instant; 1 for all of them
    done = subprocess.run(
        [sys.executable, PROGRAM], input=json.dumps(task), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    untouched, *killed = json.loads(done.stdout)
    wanted = {k: v for k, v in untouched.items() if k not in ("at", "status")}
    assert (wanted["state"], wanted["owned"], wanted["left"], all(wanted["files"])) == ("done", 1, [], True)
    assert len(killed) >= 5
    for life in killed:
        assert life["status"] == -9, life
        assert {k: v for k, v in life.items() if k in wanted} == wanted, life
    bought = Counter((job.ask["schema"], job.ask["start"], job.ask["end"]) for job in vendor.jobs.values())
    assert set(bought.values()) == {1}
    assert len(bought) == 1 + len(killed)
    vendor.clear()
