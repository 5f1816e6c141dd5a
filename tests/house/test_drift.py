"""Notebooks and package say the same, and notebooks are committed clean."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from nbdev.clean import nbdev_clean
from nbdev.export import nb_export

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "researchkit"
FOLDERS = ["nbs", "papermill_jobs"]  # where notebooks live
REMEDY = "run `make notebook NB=...` on the page and commit both"


def notebooks(folder: Path) -> list[Path]:
    """Every notebook below `folder`, in reading order, without editors' copies."""
    return [p for p in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]


def cells_of(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook."""
    return json.loads(path.read_text())["cells"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as the notebooks would write it now, all in this process."""
    place = tmp_path_factory.mktemp("drift")
    shutil.copytree(ROOT / "nbs", place / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for page in notebooks(place / "nbs"):
            nb_export(str(page), lib_path=str(place / "researchkit"))
    return place / "researchkit"


def test_each_module_is_what_its_page_exports(exported: Path) -> None:
    drifted = [
        str(new.relative_to(exported))
        for new in sorted(exported.rglob("*.py"))
        if not (old := PACKAGE / new.relative_to(exported)).exists() or old.read_text() != new.read_text()
    ]
    assert not drifted, f"{', '.join(drifted)}: not what the notebook says; {REMEDY}"


def test_no_module_is_written_by_hand(exported: Path) -> None:
    made = {p.relative_to(exported) for p in exported.rglob("*.py")}
    by_hand = [
        str(p.relative_to(PACKAGE))
        for p in sorted(PACKAGE.rglob("*.py"))
        if p.name not in ("__init__.py", "_modidx.py") and p.relative_to(PACKAGE) not in made
    ]
    assert not by_hand, f"no notebook exports {', '.join(by_hand)}"


def test_a_doorway_holds_no_code_of_its_own() -> None:
    """`__init__` files may name things; what computes belongs on a page."""
    long = {
        str(p.relative_to(PACKAGE)): n
        for p in PACKAGE.rglob("__init__.py")
        if (n := len(p.read_text().splitlines())) > 25
    }
    assert not long


@pytest.mark.parametrize("folder", FOLDERS)
def test_notebooks_are_committed_clean(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(
        ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints", "*.png")
    )
    monkeypatch.chdir(ROOT)
    nbdev_clean(str(tmp_path / folder))
    pages = notebooks(ROOT / folder)
    dirty = [
        str(p.relative_to(ROOT))
        for p in pages
        if p.read_bytes() != (tmp_path / p.relative_to(ROOT)).read_bytes()
    ]
    assert not dirty, f"{', '.join(dirty)}: not clean; {REMEDY}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_cells_have_ids_of_their_own(folder: str) -> None:
    for page in notebooks(ROOT / folder):
        ids = [cell["id"] for cell in cells_of(page)]
        assert len(ids) == len(set(ids)), page


def test_cleaning_keeps_the_parameters_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = {"cell_type": "code", "execution_count": 7, "id": "one", "outputs": [], "source": ["start = 2010"]}
    cell["metadata"] = {"tags": ["parameters"], "scrolled": True}
    job = tmp_path / "job.ipynb"
    job.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    monkeypatch.chdir(ROOT)
    nbdev_clean(str(job))
    assert cells_of(job)[0]["metadata"] == {"tags": ["parameters"]}
    assert cells_of(job)[0]["execution_count"] is None


@pytest.mark.parametrize("job", notebooks(ROOT / "papermill_jobs"), ids=lambda p: p.name)
def test_each_job_has_one_cell_of_parameters(job: Path) -> None:
    tagged = [cell for cell in cells_of(job) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
