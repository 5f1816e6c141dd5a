"""Print how each page is built: exported lines, words of prose, largest cells. Reported, not enforced."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXPORT = re.compile(r"^#\s*\|\s*export\w*", re.M)
AIM_CELL, AIM_PROSE = 45, 1.0  # exported lines in a cell at most; words of prose per exported line at least


@dataclass(frozen=True)
class Page:
    """The measures of one notebook."""

    name: str  # path below the project
    cells: int
    exported: int  # lines in export cells, without directives and blank lines at the ends
    words: int  # of markdown
    largest: int  # lines of its largest export cell

    @property
    def ratio(self) -> float:
        """Words of prose per exported line."""
        return self.words / self.exported if self.exported else float("inf")


def measure(path: Path) -> Page:
    """Count the lines and words of one notebook."""
    cells = [(c["cell_type"], "".join(c["source"])) for c in json.loads(path.read_text())["cells"]]
    sizes = [
        sum(1 for line in source.strip().splitlines() if not line.startswith("#|"))
        for kind, source in cells
        if kind == "code" and EXPORT.search(source)
    ]
    words = sum(len(source.split()) for kind, source in cells if kind == "markdown")
    return Page(str(path.relative_to(ROOT)), len(cells), sum(sizes), words, max(sizes, default=0))


def pages() -> list[Page]:
    """Measure every notebook of the project, in reading order."""
    paths = [p for folder in ("nbs", "papermill_jobs") for p in sorted((ROOT / folder).rglob("*.ipynb"))]
    return [measure(p) for p in paths if ".ipynb_checkpoints" not in p.parts]


def total(measured: list[Page]) -> str:
    """One line for the whole project."""
    modules = [p for p in measured if p.exported]
    lines, words = sum(p.exported for p in measured), sum(p.words for p in measured)
    ratio = sum(p.words for p in modules) / max(lines, 1)
    return (
        f"{len(measured)} notebooks, {len(modules)} of them modules; {lines:,} exported lines, "
        f"{words:,} words of prose: {ratio:.1f} words per exported line in modules"
    )


def main() -> None:
    """Print the table, marking what falls short of the aims."""
    measured = pages()
    print(f"{'page':<52}{'cells':>6}{'lines':>7}{'words':>7}{'ratio':>7}{'largest':>9}")
    for page in measured:
        marks = "  little prose" * (page.ratio < AIM_PROSE) + "  large cell" * (page.largest > AIM_CELL)
        ratio = f"{page.ratio:.1f}" if page.exported else "-"
        print(
            f"{page.name:<52}{page.cells:>6}{page.exported:>7}{page.words:>7}{ratio:>7}{page.largest:>9}{marks}"
        )
    print(total(measured))


if __name__ == "__main__":
    sys.exit(main())
