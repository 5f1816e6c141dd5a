"""The demo, killed once at each durable call site and run again, leaves what an untouched run leaves."""

from collections.abc import Callable
from math import ceil
from pathlib import Path

import pytest
from killing import Reference, Warm, killed

from researchkit.security.durable import INSTANTS, SITES

WHICH = {"before": 0.5, "after": 0.8}  # which of a site's hits, as a share of them
LATE = {"entry:before": 0.96}  # when the campaign has decided and the ledger is not told of its notebook


def test_every_site_is_reached(
    reference: Reference, warm: Warm, record_property: Callable[[str, object], None]
) -> None:
    assert warm.pools == [], "children are forked from a process that has computed something"
    hits = {site: [reference.hits.get(f"{site}:{instant}", 0) for instant in INSTANTS] for site in SITES}
    for site, (before, after) in hits.items():
        record_property(
            "summary", f"durable site {site:<10} reached {before:>3} times before, {after:>3} after"
        )
    assert {site for site, found in hits.items() if 0 in found} == set()
    assert set(reference.hits) == {f"{site}:{instant}" for site in SITES for instant in INSTANTS}


ONCE = [
    (site, INSTANTS[(i + 1) % 2]) for i, site in enumerate(SITES)
]  # both instants of all: make study-demo-kills


@pytest.mark.parametrize(("site", "instant"), ONCE)
def test_killed_and_run_again(
    site: str, instant: str, reference: Reference, warm: Warm, two_years: Path, tmp_path: Path
) -> None:
    here = f"{site}:{instant}"
    n = max(1, ceil(reference.hits[here] * LATE.get(here, WHICH[instant])))
    assert killed(warm, tmp_path / "workspace", two_years, at=f"{here}:{n}", reference=reference) == []
