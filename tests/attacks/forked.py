"""Run a function in a child of this process, perhaps as another user, and hand back what it said."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

NOBODY = 65534
SECONDS = 60


class Child:
    """One forked child; `said` waits for its answer."""

    def __init__(self, work: Callable[[], Any], *, user: int | None = None) -> None:
        """Begin; a `user` that is not root is only possible as root."""
        self._pipe, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # other threads sleep, and the child starts none
            self.pid = os.fork()
        if self.pid == 0:
            os.close(self._pipe)
            _do(work, user, write)
        os.close(write)

    def said(self) -> Any:
        """What the work returned; whatever it raised is an AssertionError here."""
        with os.fdopen(self._pipe, "rb") as pipe:
            text = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        assert text, f"the child ended with {os.waitstatus_to_exitcode(status)} and said nothing"
        kind, told = json.loads(text)
        assert kind == "returned", told
        return told

    def ended(self) -> int:
        """How it ended, whatever it said."""
        os.close(self._pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _do(work: Callable[[], Any], user: int | None, pipe: int) -> None:
    """In the child: become somebody, work, say, and end without waking the parent's clean-up."""
    try:
        signal.alarm(SECONDS)
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        told = ["returned", work()]
    except BaseException:
        told = ["raised", traceback.format_exc()]
    try:
        os.write(pipe, json.dumps(told).encode()[: 1 << 16])
    finally:
        os._exit(0)


def as_nobody(work: Callable[[], Any]) -> Any:
    """Do something as a user who owns nothing."""
    return Child(work, user=NOBODY).said()


def refused(step: Callable[[], Any]) -> str:
    """The words in which one of the project's own errors refuses a step; "" when it succeeds."""
    from researchkit.errors import ResearchKitError

    try:
        step()
    except (ResearchKitError, ValueError) as e:
        return f"{type(e).__name__}: {e}"
    return ""
