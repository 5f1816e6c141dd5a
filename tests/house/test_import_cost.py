"""A command that only prints help loads nothing heavy. Seconds are shown, modules are asserted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "alembic", "arch", "bokeh", "databento", "databento_dbn", "holoviews", "hvplot", "IPython",
    "ipykernel", "jupyter_client", "matplotlib", "mlflow", "nbclient", "nbconvert", "nbformat", "numba",
    "numpy", "pandas", "panel", "papermill", "polars", "pyarrow", "pyiceberg", "regopy", "scipy",
    "sklearn", "skops", "sqlalchemy", "statsmodels", "tink",
}  # fmt: skip
PROBE = """
import contextlib, io, json, resource, sys
sys.argv = ["researchkit", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    {work}
used = resource.getrusage(resource.RUSAGE_SELF)
modules = sorted({{m.split(".")[0] for m in sys.modules}})
print(json.dumps([modules, used.ru_utime + used.ru_stime, out.getvalue()]))
"""


def probe(work: str) -> tuple[set[str], float, str]:
    """Run `work` in a fresh interpreter: the top-level modules it loaded, CPU seconds, what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(work=work)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    modules, seconds, said = json.loads(done.stdout)
    return set(modules), seconds, said


@pytest.mark.parametrize("work", ["import researchkit", "from researchkit.cli import main; main()"])
def test_help_loads_nothing_heavy(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    modules, seconds, _ = probe(work)
    with capsys.disabled():
        print(f"\n{work}: {seconds:.2f} s of CPU, {len(modules)} top-level modules")
    assert not modules & HEAVY


def test_help_says_what_the_commands_are() -> None:
    _, _, said = probe("from researchkit.cli import main; main()")
    assert "demo" in said
    assert "verify" in said


def test_the_probe_sees_a_heavy_import() -> None:
    modules, _, _ = probe("import numpy")
    assert modules & HEAVY == {"numpy"}
