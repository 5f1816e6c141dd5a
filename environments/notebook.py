"""Run pages top to bottom in a fresh kernel, keep what they show, clean them, export their modules.

    python environments/notebook.py nbs/backtest/19_fills.ipynb     run, keep outputs, clean, export
    python environments/notebook.py --no-run                        clean and export every page

A page that fails is left as it was, and its module too: what does not run is not exported. The kernel gets
the variables under which results repeat, an empty working folder, and a private socket in the file system, so
that several can run side by side and none listens on a port.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from researchkit.settings import environment

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager
    from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("nbs", "papermill_jobs")
SECONDS = 600  # the longest that one cell may take


@contextmanager
def kernel_manager() -> Iterator[AsyncKernelManager]:
    """A kernel manager that talks over a socket file in a private, short folder."""
    from jupyter_client.manager import AsyncKernelManager

    folder = Path(tempfile.mkdtemp(prefix="nb-"))
    manager = AsyncKernelManager(
        kernel_name="python3",
        transport="ipc",
        ip=str(folder / "kernel"),
        connection_file=str(folder / "connection.json"),
    )
    try:
        yield manager
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def execute(
    page: NotebookNode,  # a notebook as nbformat reads it; its outputs are replaced
) -> None:
    """Run every cell of `page` in a fresh kernel and an empty folder; raises `CellExecutionError`."""
    from nbclient import NotebookClient

    variables = os.environ | environment() | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    variables["IPYTHONDIR"] = tempfile.mkdtemp(prefix="ipython-")
    where = tempfile.mkdtemp(prefix="page-")
    try:
        with kernel_manager() as manager:
            resources = {"metadata": {"path": where}}
            client = NotebookClient(page, km=manager, timeout=SECONDS, resources=resources)
            client.execute(env=variables, cleanup_kc=True)
    finally:
        for folder in (where, variables["IPYTHONDIR"]):
            shutil.rmtree(folder, ignore_errors=True)


def keep_what_repeats(
    page: NotebookNode,  # an executed notebook; changed in place
) -> list[str]:  # what was dropped, for the author to read
    """Drop clocks, and the warnings and progress bars of the error stream, which differ from run to run."""
    dropped = []
    for cell in page.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        noise = [o for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"]
        dropped += [f"{cell.id}: {o.text.strip()}" for o in noise]
        cell.outputs = [o for o in cell.outputs if o not in noise]
    return dropped


def suspicious(
    page: NotebookNode,  # an executed notebook
) -> list[str]:  # one sentence per cell
    """Name outputs that will differ on another machine: absolute paths."""
    marks = (str(Path.home()) + "/", str(ROOT), tempfile.gettempdir() + "/")
    return [
        f"{cell.id}: shows an absolute path"
        for cell in page.cells
        if any(m in str(o) for o in cell.get("outputs", []) for m in marks)
    ]


def run(
    path: Path,  # one notebook
) -> None:
    """Run one page and write its outputs back."""
    import nbformat
    from fastcore.nbio import dict2nb, write_nb

    page = nbformat.read(path, as_version=4)
    begun = time.perf_counter()
    execute(page)
    for words in keep_what_repeats(page) + suspicious(page):
        print(f"  {path.name} {words}", file=sys.stderr)
    write_nb(dict2nb(page), path)
    print(f"{os.path.relpath(path, ROOT)}: ran in {time.perf_counter() - begun:.1f} s")


def clean_and_export(
    path: Path,  # one notebook
) -> None:
    """Strip what changes from run to run, then write the module that the page exports, if any."""
    from nbdev.clean import nbdev_clean
    from nbdev.export import nb_export

    nbdev_clean(str(path))
    if "default_exp" in path.read_text():
        nb_export(str(path), lib_path=str(ROOT / "researchkit"))


def pages(
    named: list[str],  # as typed; empty means all
) -> list[Path]:
    """The notebooks that are meant, in reading order."""
    if named:
        return [Path(name).resolve() for name in named]
    found = [p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.ipynb"))]
    return [p for p in found if ".ipynb_checkpoints" not in p.parts]


def main() -> int:
    """Treat each page in turn; stop at the first that fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("notebooks", nargs="*", help="notebooks (default: all)")
    parser.add_argument("--no-run", action="store_true", help="only clean and export")
    given = parser.parse_args()
    wanted = pages(given.notebooks)
    if missing := [p for p in wanted if p.suffix != ".ipynb" or not p.is_file()]:
        parser.error(f"not a notebook: {missing[0]}")
    os.chdir(ROOT)
    from nbclient.exceptions import CellExecutionError

    for path in wanted:
        try:
            if not given.no_run and "papermill_jobs" not in path.parts:
                run(path)
        except CellExecutionError as failed:
            print(f"{path.name}: {failed}\nthe page and its module are left as they were", file=sys.stderr)
            return 1
        clean_and_export(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
