"""A sweep that is killed again and again keeps every point once, and names the winner of an untouched one."""

import signal
from pathlib import Path

import pytest
from killing import Warm, remove

pytestmark = pytest.mark.xdist_group("demo kills")

SIZE = 9  # points in parts of two
KILLS = (
    {"stop": 5},  # inside the fourth point: one part is kept
    {"at": "archive:before:1"},  # the setting of the second attempt has no name yet
    {"at": "warehouse:before:1"},  # rows are in the archive and nowhere else
    {"at": "warehouse:after:1"},  # rows are in the warehouse, and the ledger does not say so
)


def test_a_sweep_killed_again_and_again_keeps_every_point_once(warm: Warm, tmp_path: Path) -> None:
    root, whole = tmp_path / "workspace", tmp_path / "untouched"
    try:
        for number, how in enumerate(KILLS):
            at = str(how.get("at", ""))
            env = {"RESEARCHKIT_KILL_COUNT": str(tmp_path / f"{number}.count"), "RESEARCHKIT_KILL_AT": at}
            died = warm.ask("sweep", env, root=str(root), size=SIZE, stop=how.get("stop", 0))
            assert died["code"] == -signal.SIGKILL, (how, died["log"])
        done, wanted = (warm.ask("sweep", root=str(r), size=SIZE) for r in (root, whole))
        assert done["code"] == wanted["code"] == 0, done["log"] + wanted["log"]
        got, untouched = done["answer"], wanted["answer"]
        assert got["rows"] == untouched["rows"]
        assert got["kept"] == untouched["kept"] == list(range(1, SIZE + 1)), "none twice, none lost"
        assert got["winner"] == untouched["winner"]
        assert got["streams"] == untouched["streams"]
        assert got["faults"] == []
        assert got["statuses"] == ["aborted"] * len(KILLS) + ["finished"]
        assert len(got["tried"]) < len(untouched["tried"]) == SIZE
        assert [r["error"] for r in got["rows"] if r["error"]] == ["ZeroDivisionError: nonsense"]
        again = warm.ask("sweep", root=str(root), size=SIZE)["answer"]
        assert (again["runs"], again["winner"]) == (1, got["winner"]), (
            "a finished sweep is made again, not counted"
        )
        assert again["streams"] == got["streams"]
    finally:
        remove(root)
        remove(whole)
