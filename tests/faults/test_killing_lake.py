"""A lake that was killed at any instant and used again is the lake that nobody killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from killing_lake import SITES

PROGRAM = Path(__file__).with_name("killing_lake.py")
# "commit", "upkeep", "pin", "object", "ingest": here. "order", "delivery": test_order_kills. "segment": test_live_kills.


def lived(**task: Any) -> list[dict[str, Any]]:
    """Let the program live, and hold every life against the first, which nobody killed."""
    done = subprocess.run(
        [sys.executable, PROGRAM], input=json.dumps(task), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["pools"] == [], "lives are forked from a process that has computed something"
    untouched, *killed = told["lives"]
    assert (untouched["status"], untouched["faults"]) == (0, []), done.stderr[-3000:]
    assert untouched["same"]["restated"][0]["retracted"] == 1
    assert untouched["same"]["hashes"]["ticks then"] == untouched["same"]["hashes"]["ticks of the first pin"]
    assert untouched["same"]["hashes"]["ticks now"] != untouched["same"]["hashes"]["ticks then"]
    for life in killed:
        assert (life["status"], life["again"], life["faults"]) == (-9, 0, []), life["at"]
        assert life["same"] == untouched["same"], life["at"]
    found: list[dict[str, Any]] = killed
    return found


@pytest.mark.xdist_group("lake kills")
def test_killed_once_at_each_kind_of_instant_and_done_again() -> None:
    kinds = {life["at"].rpartition(":")[0] for life in lived(every=False)}
    assert kinds == {f"{site}:{when}" for site in SITES for when in ("before", "after")}


@pytest.mark.xdist_group("radosgw")
def test_the_same_with_the_lake_in_a_bucket_and_its_catalog_on_a_server(
    radosgw: Any, postgresql: Any
) -> None:
    postgresql.run("CREATE ROLE lake_kills LOGIN PASSWORD 'of no use elsewhere'")
    keys = {"access_key": radosgw.access_key, "secret_key": radosgw.secret_key}
    sites = []
    for number in range(3):
        postgresql.run(f"CREATE DATABASE lake_kills_{number} OWNER lake_kills")
        store = f"endpoint={radosgw.endpoint}&secret=bucket&ca={radosgw.ca}&region=us-east-1"
        lines = {
            "lake_url": f"s3://{radosgw.bucket(locked=False)}/lake?{store}",
            "catalog_url": f"{postgresql.url(f'lake_kills_{number}')}&secret=catalog",
        }
        login = {"user": "lake_kills", "password": "of no use elsewhere"}
        sites.append({"settings": lines, "secrets": {"bucket": keys, "catalog": login}})
    assert len(lived(every=False, sites=sites)) == 2
