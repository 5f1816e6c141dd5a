"""Let a vendor do everything wrong that he can, one purchase each, and write down what became of it.

    make study-vendor-faults

The page is written by this command and by nobody else; `make test` runs two dozen of its cases and holds them
against it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "servers"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

from results_page import results_page
from tls import Authority
from vendor import serving
from vendor_table import CASES, IN, Told, cut_everywhere, orders, row, shop, wrong

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "nbs" / "results" / "06_vendor_faults.ipynb"
WHY = """A purchase asks for a price, orders, waits, asks for a list of files, fetches them and brings them into the
lake. Here a stand-in for the vendor does each of these steps wrong in every way it knows, and the vendor's own client
asks it as it would ask the vendor. Each line is one purchase of one week of bars. The first attempt meets the fault;
then the fault is over and the same purchase is made again, which is how an interrupted purchase is gone on with.

After both attempts each case is held to the same rules. The rows in the lake are all rows of the week, or none. A
file is in the raw zone only when all of its bytes are the promised ones. And the number of jobs in the vendor's books
is the number of bills: one, except where the vendor made two jobs of one order by himself, and where he threw away
files that were never fetched.

Words in capitals stand for what differs from run to run: HOST and JOB."""
PLACES = {
    "asking": "What would it cost?",
    "ordering": "Ordering",
    "waiting": "Waiting for the job",
    "listing": "The list of files",
    "fetching": "Fetching",
    "content": "What was fetched",
}


def main() -> int:
    """Run every case and write the page; exit 1 when one turned out otherwise than it should."""
    began, told = time.process_time(), []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with serving(root, Authority(root / "ca")) as vendor:
            with shop(root / "shop", vendor) as counter:
                told = [counter.run(case, order) for case, order in zip(CASES, orders(), strict=False)]
            size, cuts = cut_everywhere(root / "cuts", vendor, step=1)
    bad = [f"{t.case.where}: {t.case.what}: {'; '.join(w)}" for t in told if (w := wrong(t))]
    print("\n".join(bad) or f"{len(told)} faults and {cuts} cuts, {time.process_time() - began:.0f} s of CPU")
    if not bad:
        PAGE.write_text(results_page(page(told, size, cuts), "vfl"))
    return bool(bad)


def page(told: list[Told], size: int, cuts: int) -> list[str]:
    """The cells of the page."""
    texts = [
        "# What a vendor can do wrong\n\n> Every fault of every step, and what becomes of the purchase.",
        WHY,
    ]
    healed = sum(t.first == IN for t in told)
    texts.append(
        f"Of {len(told)} faults {healed} are healed without anybody noticing more than a pause. The others end in one "
        "sentence that says what is wrong and what to do, and cost nothing, or nothing more than what the order had "
        f"cost by then. Besides, a file of {size} bytes was fetched {cuts} times, cut after another number of bytes "
        "each time; it was whole every time."
    )
    head = (
        "| step | what goes wrong | what happens | after the fault is over | jobs |\n|---|---|---|---|---:|\n"
    )
    for place, words in PLACES.items():
        texts.append(f"## {words}\n\n{head}" + "\n".join(row(t) for t in told if t.case.where == place))
    return [*texts, "This page is written by `make study-vendor-faults`; `make test` runs some of its cases."]


if __name__ == "__main__":
    sys.exit(main())
