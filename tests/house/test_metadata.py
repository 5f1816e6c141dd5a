"""Metadata and requirements are written once, in settings.ini, and every requirement is needed."""

from __future__ import annotations

import ast
import json
import re
import runpy
import tomllib
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import researchkit

ROOT = Path(__file__).parents[2]
INI = ConfigParser(delimiters=["="])
INI.read(ROOT / "settings.ini", encoding="utf-8")
META = INI["DEFAULT"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LISTS = [key for key in META if key.endswith("requirements")]

# What each dynamic field of pyproject.toml is called by setup().
KEYWORDS = {
    "version": "version",
    "description": "description",
    "readme": "long_description",
    "license": "license",
    "authors": "author",
    "keywords": "keywords",
    "classifiers": "classifiers",
    "dependencies": "install_requires",
    "optional-dependencies": "extras_require",
    "entry-points": "entry_points",
    "scripts": "entry_points",
    "urls": "project_urls",
}

# Requirements that no line of ours imports, and why they are there.
ARGUED = {
    "jupyterlab": "where people work: `make lab`",
    "ipywidgets": "progress bars of tqdm.auto in notebooks",
    "hvac": "the client of Vault and OpenBao that the site tier opens `vault://` with",
    "pyiceberg-core": "pyiceberg loads it for year, month and day partitions",
    "jupyterhub": "the hub extra: people log in there, nothing imports it",
    "psycopg": "SQLAlchemy loads it by name for postgresql:// URLs of the site tier",
    "pytest-timeout": "a plugin: `timeout` in pyproject.toml",
    "pytest-xdist": "a plugin: tests on both cores",
    "ruff": "a command: `make check`",
    "mypy": "a command: `make check`",
    "types-pyyaml": "read by mypy only",
    "types-tqdm": "read by mypy only",
}


def canonical(name: str) -> str:
    """Write a distribution's name the one way that can be compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> dict[str, Requirement]:
    """Every requirement of every list in settings.ini, by canonical name."""
    return {canonical(r.name): r for key in LISTS for line in META[key].split() for r in [Requirement(line)]}


def sources() -> list[str]:
    """All Python of the project: package, tests, tools, and the cells of jobs and pages."""
    folders = (ROOT / name for name in ("researchkit", "tests", "environments"))
    modules = [p for folder in folders for p in folder.rglob("*.py")]
    pages = [p for folder in ("nbs", "papermill_jobs") for p in (ROOT / folder).rglob("*.ipynb")]
    cells = [c for p in pages for c in json.loads(p.read_text())["cells"] if c["cell_type"] == "code"]
    python = [p.read_text() for p in modules]
    return python + [re.sub(r"(?m)^\s*[%!].*$", "", "".join(c["source"])) for c in cells]


def imported() -> set[str]:
    """The distributions that the project imports somewhere."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    names: set[str] = set()
    for source in sources():
        for node in ast.walk(compile(source, "source", "exec", flags)):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
        names |= set(re.findall(r"""(?:find_spec|import_module)\(["'](\w+)""", source))
    owners = packages_distributions()
    return {canonical(owner) for name in names for owner in owners.get(name, [])}


@pytest.fixture(scope="module")
def handed_over() -> dict[str, Any]:
    """What setup.py gives to setuptools."""
    given: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", given.update)
        patch.chdir(ROOT)
        runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_the_package_knows_its_version() -> None:
    assert researchkit.__version__ == META["version"]


def test_the_changelog_knows_the_version() -> None:
    assert re.search(rf"^## \[{re.escape(META['version'])}\]", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_setup_sets_every_dynamic_field(handed_over: dict[str, Any]) -> None:
    assert set(PYPROJECT["project"]["dynamic"]) == set(KEYWORDS)
    assert not [field for field, keyword in KEYWORDS.items() if keyword not in handed_over]


def test_setup_takes_its_values_from_settings_ini(handed_over: dict[str, Any]) -> None:
    assert handed_over["version"] == META["version"]
    assert handed_over["install_requires"] == META["requirements"].split()
    assert {f"{extra}_requirements" for extra in handed_over["extras_require"]} == set(LISTS) - {
        "requirements"
    }


def test_no_metadata_is_written_twice() -> None:
    assert set(PYPROJECT["project"]) == {"name", "requires-python", "dynamic"}
    assert PYPROJECT["project"]["name"] == META["lib_name"]
    assert not [name for name in ("setup.cfg", "requirements.txt", "Pipfile") if (ROOT / name).exists()]
    written = (ROOT / "setup.py").read_text()
    assert not [key for key in ("version", "description", "author_email") if META[key] in written]


def test_the_interpreter_is_one_that_is_promised() -> None:
    wanted = (ROOT / ".python-version").read_text().strip()
    assert f"{wanted}.0" in SpecifierSet(PYPROJECT["project"]["requires-python"])


def test_every_requirement_is_imported_or_argued() -> None:
    unused = set(requirements()) - imported() - set(ARGUED)
    assert not unused, f"nothing imports {sorted(unused)}: drop it from settings.ini or argue in ARGUED"


def test_arguments_are_about_requirements() -> None:
    assert set(ARGUED) <= set(requirements())


def test_every_requirement_is_locked_at_or_above_its_floor() -> None:
    lock = "\n".join(p.read_text() for p in sorted((ROOT / "environments").glob("[!p]*.lock")))
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", lock, re.M)
    pins = {canonical(name): version for name, version in found}
    low = {name for name, need in requirements().items() if name in pins and pins[name] not in need.specifier}
    assert not low, f"locked below the floor of settings.ini: {sorted(low)}"
    unlocked = {name for name in requirements() if name not in pins} - optional()
    assert not unlocked, f"not in environments/*.lock: {sorted(unlocked)}"


def test_no_openblas_writes_past_its_own_stack() -> None:
    """0.3.34 does under a forced kernel on newer AMD processors: https://github.com/OpenMathLib/OpenBLAS/issues/6021."""
    import scipy.linalg  # noqa: F401  loads a copy of its own
    from threadpoolctl import threadpool_info

    loaded = {
        blas["filepath"]: blas["version"] for blas in threadpool_info() if blas["internal_api"] == "openblas"
    }
    assert len(loaded) >= 2
    bad = [path for path, version in loaded.items() if version is None or version.startswith("0.3.34")]
    assert not bad, f"its products may be wrong, see settings.ini on numpy: {bad}"


def optional() -> set[str]:
    """Requirements of extras that the development lock leaves out: they need servers."""
    lines = META["site_requirements"].split() + META["hub_requirements"].split()
    return {canonical(Requirement(line).name) for line in lines}
