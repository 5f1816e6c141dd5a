"""The README is the front page, every link leads somewhere, and a built page asks nothing of the network."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
NBS = ROOT / "nbs"
PAGES = [p for p in sorted(NBS.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
IN_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.S)


@pytest.fixture(scope="module")
def docs() -> Iterator[ModuleType]:
    """The builder, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("docs_builder", ROOT / "environments" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "docs_builder", module)
        spec.loader.exec_module(module)
        yield module


def test_the_readme_is_the_front_page(docs: ModuleType) -> None:
    text, pictures = docs.readme()
    assert (ROOT / "README.md").read_text() == text, (
        "README.md is not what nbs/index.ipynb says: run `make readme`"
    )
    assert all((NBS / name).read_bytes() == data for name, data in pictures.items())


def test_links_and_pictures_of_the_readme_exist(docs: ModuleType) -> None:
    text, _ = docs.readme()
    missing = [m[2] for m in docs.IN_MARKDOWN.finditer(IN_CODE.sub("", text)) if not (ROOT / m[2]).exists()]
    assert not missing


def test_the_readme_is_what_the_project_promises(docs: ModuleType) -> None:
    text, _ = docs.readme()
    assert "make demo" in text
    assert "make test" in text
    example = "".join(re.findall(r"```python\n(.*?)```", text, re.S))
    assert "researchkit" in example
    assert len([line for line in example.splitlines() if line.strip()]) <= 12


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(NBS)))
def test_links_between_pages_lead_somewhere(docs: ModuleType, page: Path) -> None:
    cells = json.loads(page.read_text())["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = [m[2] for m in docs.IN_MARKDOWN.finditer(IN_CODE.sub("", prose))]
    assert not [link for link in links if not (page.parent / link).exists()]


def test_a_page_loads_nothing_from_elsewhere(docs: ModuleType, tmp_path: Path) -> None:
    pages = docs.reading_order()
    for number in (0, len(pages) // 2, len(pages) - 1):
        target = tmp_path / pages[number].target
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(docs.render(pages, number))
    assert not [fault for fault in docs.faults(tmp_path) if "loads from elsewhere" in fault]


@pytest.mark.parametrize(
    "bad",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example.org/css">',
        '<img alt="x" src="http://example.org/x.png">',
        '<iframe src="https://example.org"></iframe>',
        "<style>@import 'x.css'</style>",
        "<style>body { background: url(https://example.org/x.png) }</style>",
    ],
)
def test_the_test_sees_what_would_ask_the_network(docs: ModuleType, tmp_path: Path, bad: str) -> None:
    (tmp_path / "x.html").write_text(f"<html>{bad}</html>")
    assert any("loads from elsewhere" in fault for fault in docs.faults(tmp_path))


def test_a_dead_link_is_found(docs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text('<a href="nowhere.html">x</a> <a href="https://example.org">y</a>')
    assert list(docs.faults(tmp_path)) == ["x.html: leads nowhere: nowhere.html"]


def test_formulas_are_drawn_from_an_installed_package(docs: ModuleType, tmp_path: Path) -> None:
    docs.copy_formula_renderer(tmp_path / "formulas")
    assert sorted(p.name for p in (tmp_path / "formulas").iterdir()) == [
        "auto-render.min.js",
        "katex.min.js",
        "start.js",
    ]
