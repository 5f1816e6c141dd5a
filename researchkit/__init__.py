"""Where a quant team finds out, honestly, whether any idea beats the system it already runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from researchkit.workspace import Workspace

__version__ = "0.1.0"


def open(workspace: str | Path | None = None, *, overrides: Mapping[str, str] | None = None) -> Workspace:
    """Open a workspace, made first if there is none: the front door, see `researchkit.workspace.open`."""
    from researchkit.workspace import open as front_door

    return front_door(workspace, overrides=overrides)
