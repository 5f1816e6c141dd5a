"""Two runs under different hash seeds and thread counts are the same to the bit; a third adds no data."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from killing import Reference, Warm, remove

pytestmark = pytest.mark.xdist_group("demo kills")  # one process makes the reference and both runs
OTHER = {
    "PYTHONHASHSEED": "20131231",
    "POLARS_MAX_THREADS": "3",
    "OMP_NUM_THREADS": "3",
    "OPENBLAS_NUM_THREADS": "3",
    "NUMBA_NUM_THREADS": "2",
    "RAYON_NUM_THREADS": "3",
    "TZ": "Asia/Tokyo",
}


@pytest.fixture(scope="module")
def elsewhere(two_years: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """The facts after one run, and after a second run in the same workspace, under `OTHER`."""
    root = tmp_path_factory.mktemp("elsewhere") / "another-name"
    found = []
    with Warm(**OTHER) as warm:
        for _ in range(2):
            done = warm.demo(root, two_years)
            assert done["code"] == 0, done["log"]
            facts = warm.ask("facts", root=str(root))
            assert facts["code"] == 0, facts["log"]
            found.append(facts["answer"])
    yield found
    remove(root)


def test_the_same_to_the_bit_and_a_second_run_adds_no_data(
    elsewhere: list[dict[str, Any]], reference: Reference, record_property: Callable[[str, object], None]
) -> None:
    for what in ("equities", "streams", "probabilities", "artifacts", "pins", "objects", "verdicts"):
        assert elsewhere[0]["same"][what] == reference.same[what], what
        assert reference.same[what], what
    first, second = elsewhere
    assert first["faults"] == second["faults"] == []
    for what in ("objects", "ingested", "files", "rows", "pins", "streams", "campaigns", "verdicts", "once"):
        assert second["same"][what] == first["same"][what], what
    assert second["trials"]["finished"] == 2 * first["trials"]["finished"] == 2 * reference.trials
    same = reference.same
    record_property(
        "summary",
        f"same bits: {len(same['equities'])} equities, {len(same['artifacts'])} artifacts, {len(same['pins'])} pins under "
        "other hash seeds and thread counts",
    )
