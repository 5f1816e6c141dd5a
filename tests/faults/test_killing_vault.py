"""Killed once at each durable instant of the Vault: nothing acknowledged is lost, nothing is half there."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from killing_vault import Case, Step, Warm, hits, killed, run_case
from sited import Site

from researchkit.security.durable import INSTANTS

NEXT_CENTURY = 4_102_444_800 * 10**9
SCRIPT: list[Step] = [
    ["put", "a.dbn", 1, 200_000], ["append", 1], ["checkpoint"], ["secret", "db", "first"], ["key", "third"],
    ["put", "b.dbn", 2, 100_000], ["retain", 2, 100_000, NEXT_CENTURY], ["append", 2, 30], ["secret", "db", "second"],
    ["put", "a.dbn", 3, 50_000], ["hold", 3, 50_000, True], ["checkpoint"], ["hold", 3, 50_000, False],
    ["delete", 3, 50_000], ["put", "c.dbn", 4, 900, "lent"], ["shred", "lent"], ["rotate"], ["append", 3], ["checkpoint"],
]  # fmt: skip
EMBEDDED = ("key", "secret", "object", "hold", "ingest", "entry", "checkpoint", "witness", "shred")


@pytest.fixture(scope="session")
def vault() -> Iterator[Warm]:
    """A server that has imported the Vault and computed nothing."""
    with Warm() as server:
        yield server


@pytest.fixture(scope="session")
def distant() -> Iterator[Warm]:
    """The same, with the clients of servers."""
    with Warm(servers=True) as server:
        yield server


def middle(reached: dict[str, int], site: str, instant: str) -> str:
    """The instant of a site in the middle of the work."""
    return f"{site}:{instant}:{ceil(reached[f'{site}:{instant}'] / 2)}"


@pytest.fixture(scope="session")
def embedded(vault: Warm, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """A workspace to copy, and how often the script reaches each instant."""
    assert vault.pools == [], "children are forked from a process that has computed something"
    root = tmp_path_factory.mktemp("embedded") / "ws"
    vault.must("prepare", root=root, witness=True)
    trial = shutil.copytree(root, root.with_name("trial"))
    reached = hits(vault, trial, SCRIPT)
    left = vault.must("inspect", root=trial, acks=trial.with_suffix(".acks"), finished=True)
    vault.must("remove", root=trial)
    assert left == []
    return root, reached


@pytest.mark.xdist_group("killing the vault")
def test_the_script_reaches_every_site(embedded: tuple[Path, dict[str, int]]) -> None:
    assert set(embedded[1]) == {f"{site}:{instant}" for site in EMBEDDED for instant in INSTANTS}


@pytest.mark.xdist_group("killing the vault")
@pytest.mark.attack("killed at every durable instant", tier="embedded")
@pytest.mark.parametrize("name", EMBEDDED)
def test_killed_in_the_embedded_tier(
    name: str, embedded: tuple[Path, dict[str, int]], vault: Warm, tmp_path: Path
) -> None:
    root = shutil.copytree(embedded[0], tmp_path / "ws")
    try:
        at = (middle(embedded[1], name, "before"), f"{name}:after:1")  # killed, and killed again in the rerun
        assert killed(vault, root, SCRIPT, at=at) == (True, [])
    finally:
        vault.ask("remove", root=root)


@pytest.mark.xdist_group("killing the vault")
def test_a_sample_of_the_study_comes_out_the_same(
    embedded: tuple[Path, dict[str, int]], vault: Warm, tmp_path: Path
) -> None:
    for number in range(1000, 1004):  # cases that `make study-kills` does not have
        done = run_case(vault, embedded[0], Case(number, seed=0), tmp_path)
        assert done["wrong"] == [], done


# --- with PostgreSQL, a bucket and a vault ---

SITE = ("key", "hold", "part", "ingest", "entry", "checkpoint", "witness", "shred")


def turn(number: int) -> list[Step]:
    """A script that has everything to do each time it comes round."""
    first, second = 2 * number, 2 * number + 1
    return [
        ["put", f"{number}.dbn", 100 + first, 30_000], ["append", number, 3], ["secret", "db", f"value {number}"],
        ["hold", 100 + first, 30_000, True], ["hold", 100 + first, 30_000, False], ["checkpoint"],
        ["put", f"lent {number}.dbn", 100 + second, 900, f"lent{number}"], ["shred", f"lent{number}"],
    ]  # fmt: skip


@pytest.fixture(scope="session")
def site(
    openbao: Any, postgresql: Any, radosgw: Any, distant: Warm, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A workspace on real servers."""
    root = tmp_path_factory.mktemp("site") / "ws"
    made = Site(openbao, postgresql, radosgw, tmp_path_factory.mktemp("logins")).settings()
    distant.must("prepare", root=root, settings=made, witness=True)
    return root


@pytest.mark.xdist_group("radosgw")
@pytest.mark.attack("killed at every durable instant", tier="site")
def test_killed_at_a_site(site: Path, distant: Warm) -> None:
    reached = hits(distant, site, turn(0))
    assert set(reached) == {f"{name}:{instant}" for name in SITE for instant in INSTANTS}
    acks = site.with_suffix(".acks")
    for number, name in enumerate(
        SITE, 1
    ):  # each run finishes what the last left, and is killed in its own turn
        at = f"{name}:{INSTANTS[number % 2]}:1"
        script = [*turn(number - 1), ["arm", str(site.with_suffix(".count")), at], *turn(number)]
        run = distant.ask("work", root=site, acks=acks, script=script)
        assert run["code"] == -signal.SIGKILL, f"was not killed at {at}: {run['log'][-700:]}"
    distant.must("work", root=site, acks=acks, script=turn(len(SITE)))
    assert distant.must("inspect", root=site, acks=acks, finished=True) == []
