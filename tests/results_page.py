"""A page of results as a notebook of Markdown cells: what studies and benches write into nbs/."""

from __future__ import annotations

from collections.abc import Sequence


def results_page(
    texts: Sequence[str],  # one a cell
    prefix: str,  # of the cells' ids, so that a page written again keeps them
) -> str:  # the notebook's file
    """Spell a page as nbformat does, the same text for the same cells."""
    from nbformat import v4

    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    cells = [v4.new_markdown_cell(text, id=f"{prefix}{n:02}") for n, text in enumerate(texts)]
    return str(v4.writes(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}))) + "\n"
