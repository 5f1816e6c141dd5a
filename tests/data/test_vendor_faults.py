"""What a vendor does wrong never ends in a wrong row, a file that is half there, or a second bill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from vendor import Vendor
from vendor_table import CASES, Case, Shop, cut_everywhere, orders, row, shop, wrong

pytestmark = pytest.mark.xdist_group("vendor_faults")
PAGE = Path(__file__).parents[2] / "nbs" / "results" / "06_vendor_faults.ipynb"
SAID = "".join(line for cell in json.loads(PAGE.read_text())["cells"] for line in cell["source"])
WEEKS = {(c.where, c.what): week for c, week in zip(CASES, orders(), strict=False)}


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory, vendor: Vendor) -> Iterator[Shop]:
    """One shop for all cases; each buys another week."""
    with shop(tmp_path_factory.mktemp("shop"), vendor) as made:
        yield made


@pytest.mark.parametrize("case", [c for c in CASES if c.often], ids=lambda c: f"{c.where}: {c.what}")
def test_a_fault_ends_as_the_page_says(counter: Shop, case: Case):
    told = counter.run(case, WEEKS[case.where, case.what])
    assert wrong(told) == []
    assert row(told) in SAID


def test_a_download_is_cut_anywhere_and_is_whole_in_the_end(tmp_path: Path, vendor: Vendor):
    size, cuts = cut_everywhere(tmp_path, vendor, step=9)
    assert cuts >= size // 9
