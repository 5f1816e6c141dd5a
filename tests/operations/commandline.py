"""Where the program lies that a person types, and what it sees of the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from researchkit.settings import environment

PROGRAM = Path(sys.executable).parent / "researchkit"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def variables() -> dict[str, str]:
    """This process's environment, without a workspace and with the variables under which results repeat."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RESEARCHKIT_")}
    return {**kept, **environment(), "COLUMNS": "200"}
