"""The demo, killed once at each durable call site and run again, leaves what an untouched run leaves."""

from collections.abc import Callable
from math import ceil
from pathlib import Path

import pytest
from killing import Reference, Warm, killed

from researchkit.security.durable import INSTANTS, SITES

pytestmark = pytest.mark.xdist_group("demo kills")

ELSEWHERE = {  # sites that the demo has no use for, and the tests that kill there
    "secret": "test_killing_vault.py", "witness": "test_killing_vault.py", "part": "test_killing_vault.py",
    "hold": "test_killing_vault.py", "shred": "test_killing_vault.py", "order": "order_kills.py",
    "segment": "killing_live.py", "upkeep": "test_killing_lake.py",
}  # fmt: skip
HERE = [site for site in SITES if site not in ELSEWHERE]
OFTEN = (
    "entry",
    "archive",
    "run",
    "warehouse",
)  # a rerun comes there again: killed in the middle of the work
LATE = {"entry": 0.93}  # when the campaign has decided and the ledger is not told of its notebook
ROWS = 4  # chains of kills, so that a rerun and its comparison serve several


def test_every_site_is_reached(
    reference: Reference, warm: Warm, record_property: Callable[[str, object], None]
) -> None:
    assert warm.pools == [], "children are forked from a process that has computed something"
    hits = {site: [reference.hits.get(f"{site}:{instant}", 0) for instant in INSTANTS] for site in HERE}
    for site, (before, after) in hits.items():
        record_property(
            "summary", f"durable site {site:<10} reached {before:>3} times before, {after:>3} after"
        )
    assert {site for site, found in hits.items() if 0 in found} == set()
    assert set(reference.hits) == {f"{site}:{instant}" for site in HERE for instant in INSTANTS}
    for test in set(ELSEWHERE.values()):
        text = next(Path(__file__).parents[1].rglob(test)).read_text()
        assert [site for site, where in ELSEWHERE.items() if where == test and f'"{site}"' not in text] == []


def kills(row: int, reference: Reference) -> list[str]:
    """Every fourth site in the order in which a rerun meets them, now before and now after its instant."""
    chosen = []
    order = sorted(reference.order, key=lambda site: site in OFTEN)  # stable: what happens once goes first
    for place, site in list(enumerate(order))[row::ROWS]:
        instant = INSTANTS[(place + row) % 2]
        hits = reference.hits[f"{site}:{instant}"]
        share = LATE.get(site, 0.5) if site in OFTEN else 0.0
        chosen.append(f"{site}:{instant}:{max(1, ceil(hits * share))}")
    return chosen


@pytest.mark.parametrize("row", range(ROWS))
def test_killed_at_each_site_and_run_again(
    row: int, reference: Reference, warm: Warm, two_years: Path, tmp_path: Path
) -> None:
    at = kills(row, reference)
    assert killed(warm, tmp_path / "workspace", two_years, at=at, reference=reference) == [], at


def test_the_rows_hold_every_site(reference: Reference) -> None:
    assert sorted(at.partition(":")[0] for row in range(ROWS) for at in kills(row, reference)) == sorted(HERE)
