"""Write the hash-pinned locks from settings.ini, the one place where requirements stand: `make lock`."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).parent
LOCKS = {  # each is solved under the one before it, so that a later lock only adds
    "core": ["requirements"],
    "dev": ["requirements", "site_requirements", "dev_requirements"],
    "site": ["requirements", "site_requirements", "hub_requirements"],
}


PEERS = ("vectorbt", "raptorbt")  # what the benchmarks measure against; environments of their own


def solve(uv: str, wanted: str, name: str, *more: str) -> None:
    """Write one lock with the hash of every file."""
    command = [uv, "pip", "compile", "-", "-o", str(HERE / f"{name}.lock"), "--generate-hashes", "--quiet"]
    command += ["--python-version", "3.12", "--no-header", "--no-annotate", "--no-emit-find-links", *more]
    subprocess.run(command, input=wanted, text=True, check=True)


def main(uv: str) -> None:
    """Solve each lock in turn with the `uv` at the given path."""
    ini = ConfigParser(delimiters=["="])
    ini.read(HERE.parent / "settings.ini", encoding="utf-8")
    meta = ini["DEFAULT"]
    for name, keys in LOCKS.items():
        wanted = "\n".join([*(r for key in keys for r in meta[key].split()), "setuptools>=77"])
        solve(uv, wanted, name, *(("--constraint", str(HERE / "core.lock")) if name != "core" else ()))
    for name in PEERS:
        solve(uv, "\n".join(meta[f"peer_{name}"].split()), f"peer-{name}")
    said = subprocess.run([uv, "--version"], capture_output=True, text=True, check=True).stdout
    solve(uv, f"uv=={said.split()[1]}", "uv")


if __name__ == "__main__":
    main(sys.argv[1])
