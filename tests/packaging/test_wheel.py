"""The wheel holds everything that `researchkit demo` needs, and the demo runs from it without a clone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from researchkit.operations.airgap import airgap, way_in
from researchkit.settings import environment

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from killing import remove, write_stream

ROOT = Path(__file__).parents[2]
LEFT = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.egg-info")
BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"
RUN = "from researchkit.cli import main; main()"
WHERE = "from researchkit.jobs.spec import folder; print(folder())"
pytestmark = pytest.mark.xdist_group("wheel")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what packaging reads, so that nothing is built inside the project."""
    place = tmp_path_factory.mktemp("tree")
    for name in (
        "setup.py",
        "settings.ini",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "MANIFEST.in",
    ):
        shutil.copy(ROOT / name, place)
    for name in ("researchkit", "papermill_jobs"):
        shutil.copytree(ROOT / name, place / name, ignore=LEFT)
    return place


def build(tree: Path, hook: str, into: Path) -> Path:
    """Call one hook of the build backend, as pip and uv do, without their isolation."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, hook, str(into)], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel."""
    return build(tree, "build_wheel", tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as an installer would."""
    place = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(place)
    return place


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder far from any clone; a workspace in it is removed with its immutable objects."""
    place = tmp_path_factory.mktemp("nowhere")
    yield place
    remove(place / "workspace")


def run(installed: Path, nowhere: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line of the unpacked wheel."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RESEARCHKIT_")}
    env = {**kept, **environment(), "PYTHONPATH": str(installed)}
    line = [sys.executable, "-c", RUN, *words]
    return subprocess.run(
        line, cwd=nowhere, env=env, capture_output=True, text=True, check=False, timeout=400
    )


def test_the_wheel_holds_every_module_job_and_policy(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        held = set(file.namelist())
    here = [p for p in (ROOT / "researchkit").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    wanted = {str(p.relative_to(ROOT)) for p in here if p.name != "_modidx.py"}
    wanted |= {
        f"researchkit/papermill_jobs/{p.name}" for p in (ROOT / "papermill_jobs").iterdir() if p.is_file()
    }
    assert wanted - held == set()
    assert {name for name in held if name.endswith((".rego", ".yaml", "py.typed"))} >= {
        "researchkit/papermill_jobs/jobs.yaml",
        "researchkit/py.typed",
        "researchkit/security/rego/access.rego",
    }
    strange = {n for n in held if not n.startswith(("researchkit/", "researchkit-"))}
    assert strange == set(), "a wheel fills no other top-level name"


def test_every_entry_point_leads_somewhere(installed: Path) -> None:
    text = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    targets = re.findall(r"= *([\w.]+):(\w+)", text)
    assert ("researchkit.cli", "main") in targets
    for module, name in targets:
        path = installed / (module.replace(".", "/") + ".py")
        assert re.search(rf"^(def |){name}\b", path.read_text(), re.M), f"{module}:{name}"


def test_a_source_archive_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    archive = build(tree, "build_sdist", tmp_path)
    shutil.unpack_archive(archive, tmp_path, filter="data")
    again = build(next(p for p in tmp_path.iterdir() if p.is_dir()), "build_wheel", tmp_path)
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(wheel) as other:
        assert set(one.namelist()) == set(other.namelist())


def test_an_editable_install_finds_the_jobs_of_the_clone(tree: Path, nowhere: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build(tree, "build_editable", tmp_path)) as file:
        file.extractall(tmp_path / "site")
    here = sysconfig.get_path("purelib")  # the libraries, without the editable install that is among them
    there = str(tmp_path / "site")
    code = f"import site, sys; site.addsitedir({there!r}); sys.path.append({here!r}); {WHERE}"
    line = [sys.executable, "-S", "-c", code]
    done = subprocess.run(line, cwd=nowhere, capture_output=True, text=True, check=False)
    assert (done.returncode, Path(done.stdout.strip())) == (0, tree / "papermill_jobs"), done.stderr


def test_the_jobs_are_those_of_the_wheel(installed: Path, nowhere: Path) -> None:
    done = run(installed, nowhere, "job", "ls", "--json")
    assert done.returncode == 0, done.stderr
    assert "ingest" in {row["job"] for row in json.loads(done.stdout)}
    env = {**os.environ, "PYTHONPATH": str(installed)}
    where = subprocess.run(
        [sys.executable, "-c", WHERE], cwd=nowhere, env=env, capture_output=True, text=True, check=True
    )
    assert Path(where.stdout.strip()) == installed / "researchkit" / "papermill_jobs"


def test_the_demo_runs_without_a_clone_and_tries_to_reach_nothing(
    installed: Path,
    nowhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """As a person types it: the command line, six kernels, MLflow, Iceberg, and every library behind them."""
    write_stream(nowhere / "two-years.dbn.zst")
    words = ("demo", "--from", "two-years.dbn.zst", "--json")
    if way_in()[0]:
        monkeypatch.chdir(nowhere)
        monkeypatch.setenv("PYTHONPATH", str(installed))
        report = airgap(
            [sys.executable, "-c", f"import sys; sys.argv = ['researchkit', *sys.argv[1:]]; {RUN}", *words]
        )
        assert report.ok, f"{report}\n{report.attempts}\n{report.log}"
        assert report.planted >= 3
    else:
        record_property(
            "summary", "the demo was not run behind an air gap: no network namespace can be made here"
        )
        done = run(installed, nowhere, *words)
        assert done.returncode == 0, done.stderr
    ran = [json.loads(p.read_text()) for p in (nowhere / "workspace" / "archive").rglob("executed.ipynb")]
    assert len(ran) == 6
    assert str(ROOT / "researchkit") not in json.dumps(ran), "a job imported the clone and not the wheel"
    checked = run(installed, nowhere, "verify", "latest")
    assert checked.returncode == 0, checked.stdout
