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


def main(uv: str) -> None:
    """Solve each lock in turn with the `uv` at the given path."""
    ini = ConfigParser(delimiters=["="])
    ini.read(HERE.parent / "settings.ini", encoding="utf-8")
    meta = ini["DEFAULT"]
    for name, keys in LOCKS.items():
        wanted = "\n".join([*(r for key in keys for r in meta[key].split()), "setuptools>=77"])
        command = [
            uv,
            "pip",
            "compile",
            "-",
            "-o",
            str(HERE / f"{name}.lock"),
            "--generate-hashes",
            "--quiet",
        ]
        command += ["--python-version", "3.12", "--no-header", "--no-annotate", "--no-emit-find-links"]
        if name != "core":
            command += ["--constraint", str(HERE / "core.lock")]
        subprocess.run(command, input=wanted, text=True, check=True)
    uv_line = f"uv=={subprocess.run([uv, '--version'], capture_output=True, text=True, check=True).stdout.split()[1]}"
    command = [
        uv,
        "pip",
        "compile",
        "-",
        "-o",
        str(HERE / "uv.lock"),
        "--generate-hashes",
        "--quiet",
        "--no-header",
    ]
    subprocess.run([*command, "--no-annotate", "--no-emit-find-links"], input=uv_line, text=True, check=True)


if __name__ == "__main__":
    main(sys.argv[1])
