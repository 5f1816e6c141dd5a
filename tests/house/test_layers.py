"""The architecture is one list: a room may use itself and the rooms named before it, and nothing else."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ORDER = [
    "errors",
    "frames",
    "context",
    "settings",
    "security",
    "data",
    "features",
    "inference",
    "labels",
    "calibration",
    "backtest",
    "states",
    "views",
    "experiments",
    "workspace",
    "jobs",
    "operations",
    "dashboard",
    "commands",
    "cli",
]
EMPTY = {"states"}  # on the plan of the house, and not yet built
DOORS_TO = {"open": "workspace"}  # names of the package itself, and the room that they lead to
PURE = ["features", "inference", "labels", "calibration", "backtest", "states"]  # frames in, frames out

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "researchkit"
MODULES = [
    p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "_modidx.py" and p != PACKAGE / "__init__.py"
]


def room_of(where: tuple[str, ...]) -> str:
    """The room of a module, from its path inside the package."""
    return where[0].removesuffix(".py")


def call_name(node: ast.Call) -> str:
    """The last word of what is called: `import_module` of `importlib.import_module(...)`."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def imported(source: str, where: tuple[str, ...]) -> Iterator[list[str]]:
    """Yield the absolute dotted path, in parts, of everything that `source`, standing at `where`, imports."""
    here = ["researchkit", *where]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            yield from ([*base, *(node.module or "").split("."), alias.name] for alias in node.names)
        elif isinstance(node, ast.Call) and call_name(node) in ("import_module", "__import__") and node.args:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
            dots = len(name) - len(name.lstrip("."))
            yield [*(here[: len(here) - dots] if dots else []), *name.lstrip(".").split(".")]


def reached_through_the_door(source: str) -> Iterator[str]:
    """Name what `source` takes from a bare `import researchkit`; its version and its path are no room."""
    nodes = list(ast.walk(ast.parse(source)))
    aliases = [alias for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    doors = {alias.asname or alias.name for alias in aliases if alias.name == "researchkit"}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in doors:
            yield from [] if node.attr.startswith("__") else [node.attr]


def rooms_used(source: str, where: tuple[str, ...]) -> Iterator[str]:
    """Name the rooms that `source` imports, however it does so."""
    yield from (DOORS_TO.get(name, name) for name in reached_through_the_door(source))
    for parts in imported(source, where):
        path = [part for part in parts if part]
        if path[:1] == ["researchkit"] and len(path) > 1 and not path[1].startswith("__"):
            yield DOORS_TO.get(path[1], path[1])


def broken(source: str, where: tuple[str, ...]) -> list[str]:
    """Rooms that a module may not use; a room that is on no list may be used by nobody."""
    allowed = ORDER[: ORDER.index(room_of(where)) + 1]
    return [room for room in rooms_used(source, where) if room not in allowed]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_up_the_list(path: Path) -> None:
    where = path.relative_to(PACKAGE).parts
    assert room_of(where) in ORDER, f"{room_of(where)} stands in no room: add it to ORDER, where it belongs"
    assert not broken(path.read_text(), where)


@pytest.mark.parametrize(
    "line",
    [
        "import researchkit.jobs.runner",
        "import researchkit.jobs.runner as r",
        "import json, researchkit.jobs",
        "from researchkit import jobs",
        "from researchkit.jobs import runner",
        "from researchkit.jobs.runner import run as r",
        "from ..jobs import runner",
        "from ..jobs.runner import run",
        "from .. import jobs",
        "from .. import frames, jobs",
        "def f():\n    from ..jobs.runner import run",
        "class C:\n    def f(self):\n        import researchkit.jobs",
        "if TYPE_CHECKING:\n    from ..jobs import runner",
        "try:\n    import researchkit.cli\nexcept ImportError:\n    pass",
        "importlib.import_module('researchkit.jobs.runner')",
        "import_module('..jobs', __package__)",
        "__import__('researchkit.jobs')",
        "from ..unlisted import x",
        "import researchkit\nresearchkit.jobs.runner.run()",
        "import researchkit as rk\nrk.open()",
        "from researchkit import open",
    ],
)
def test_the_test_sees_every_way_to_break_it(line: str) -> None:
    assert broken(line, ("data", "lake.py"))


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("from .raw import RawZone", ("data", "lake.py")),
        ("from . import raw", ("data", "lake.py")),
        ("from ..security.ledger import Ledger", ("data", "lake.py")),
        ("from ...security import ledger", ("data", "migrations", "r0001.py")),
        ("from .errors import NotFound", ("frames.py",)),
        ("from .costs import Costs", ("backtest", "__init__.py")),
        ("from researchkit import __version__", ("data", "lake.py")),
        ("import researchkit\nresearchkit.__file__", ("data", "lake.py")),
        ("import researchkit\nresearchkit.open()", ("cli.py",)),
        ("from researchkit import open", ("dashboard", "app.py")),
        ("import researchkitten.jobs", ("data", "lake.py")),
    ],
)
def test_the_test_lets_a_good_import_pass(line: str, where: tuple[str, ...]) -> None:
    assert not broken(line, where)


def test_only_rooms_not_yet_built_are_empty() -> None:
    built = {room_of(path.relative_to(PACKAGE).parts) for path in MODULES if path.name != "__init__.py"}
    assert set(ORDER) - built == EMPTY


def test_the_front_page_shows_the_same_house() -> None:
    cells = json.loads((ROOT / "nbs" / "index.ipynb").read_text())["cells"]
    table = [line for cell in cells for line in "".join(cell["source"]).splitlines() if line.startswith("| ")]
    shown = [name for line in table for name in re.findall(r"`(\w+)/?`", line.split("|")[2])]
    assert shown == ORDER


# --- the pure wing: no path, no network, no clock, no environment ---

SHELLS = {
    "aiohttp", "asyncio", "boto3", "ctypes", "databento", "deltalake", "duckdb", "filelock", "fsspec",
    "ftplib", "getpass", "glob", "http", "httpx", "hvac", "io", "locale", "mlflow", "multiprocessing",
    "os", "papermill", "pathlib", "pickle", "platform", "psycopg", "pyarrow.parquet", "pyiceberg",
    "random", "requests", "secrets", "shelve", "shutil", "signal", "smtplib", "socket", "sqlalchemy",
    "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "tink", "tqdm", "urllib",
    "urllib3", "uuid",
}  # fmt: skip
DOORS = {"open", "input", "print", "exec", "eval", "now", "utcnow", "today", "getenv"}  # calls that reach out
FILES = re.compile(r"(read|scan|write|sink)_\w+|(loadtxt|savetxt|fromfile|tofile|memmap|savez\w*|genfromtxt)")
SEEDED = {"default_rng", "Generator", "SeedSequence", "PCG64", "Philox", "BitGenerator"}


def reaches_out(source: str, where: tuple[str, ...] = ("features", "x.py")) -> list[str]:
    """Name what in `source` touches a path, the network, a clock, the environment or unseeded chance."""
    found = [
        ".".join(parts)
        for parts in imported(source, where)
        if any(".".join(parts[:n]) in SHELLS for n in (1, 2)) or FILES.fullmatch(parts[-1])
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = call_name(node)
            unseeded = name == "default_rng" and not node.args and not node.keywords
            found += [f"{name}()"] if name in DOORS or FILES.fullmatch(name) or unseeded else []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute | ast.Name):
            owner = getattr(node.value, "attr", getattr(node.value, "id", ""))
            unseeded = ast.unparse(node.value) in ("np.random", "numpy.random") and node.attr not in SEEDED
            found += [f"{owner}.{node.attr}"] if unseeded or (owner, node.attr) == ("os", "environ") else []
    return found


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if room_of(p.relative_to(PACKAGE).parts) in PURE],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_the_pure_wing_takes_frames_and_gives_frames(path: Path) -> None:
    assert not reaches_out(path.read_text(), path.relative_to(PACKAGE).parts)


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "from os import environ",
        "from pathlib import Path",
        "import time",
        "from time import perf_counter",
        "import socket",
        "import urllib.request",
        "import requests",
        "from sqlalchemy import create_engine",
        "import pyarrow.parquet as pq",
        "from pyarrow import parquet",
        "def f():\n    import tempfile",
        "datetime.now(UTC)",
        "dt.datetime.utcnow()",
        "date.today()",
        "open('x')",
        "pl.read_parquet('x')",
        "frame.write_csv('x')",
        "from polars import scan_parquet",
        "np.loadtxt('x')",
        "np.random.seed(0)",
        "np.random.normal()",
        "np.random.default_rng()",
        "import random",
        "importlib.import_module('os')",
    ],
)
def test_the_purity_test_sees_every_way_out(line: str) -> None:
    assert reaches_out(line)


@pytest.mark.parametrize(
    "line",
    [
        "import numpy as np",
        "from datetime import UTC, datetime",
        "import pyarrow as pa",
        "rng = np.random.default_rng(seed)",
        "def f(rng: np.random.Generator) -> None: ...",
        "frame.with_columns(pl.col('x').shift(1))",
        "datetime(2014, 1, 1, tzinfo=UTC)",
    ],
)
def test_the_purity_test_lets_arithmetic_pass(line: str) -> None:
    assert not reaches_out(line)
