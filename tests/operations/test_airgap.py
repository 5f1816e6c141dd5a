"""A program that tries to leave is heard, by name, over every way out; tests/packaging holds the demo to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from researchkit.operations import airgap as room
from researchkit.operations.airgap import AirgapReport, airgap, way_in
from researchkit.operations.captivity import Ear, plant, planted

pytestmark = pytest.mark.xdist_group("air gap")
NOWHERE = "network namespaces cannot be made here"
LEAK = """
import socket
try: socket.getaddrinfo("telemetry.example", 443)
except OSError: pass
for family, host in ((socket.AF_INET, "198.51.100.20"), (socket.AF_INET6, "2001:db8:1::20")):
    made = socket.socket(family); made.settimeout(0.3)
    try: made.connect((host, 8443))
    except OSError: pass
    socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", (host, 123))
import os, sys
if sys.argv[1:]: socket.socket(socket.AF_INET, socket.SOCK_RAW, 47).sendto(b"x", ("198.51.100.20", 0))
"""


@pytest.fixture(autouse=True)
def possible() -> None:
    """Skip where neither root nor a user namespace makes a network namespace."""
    if not way_in()[0]:
        pytest.skip(NOWHERE)


def heard(report: AirgapReport) -> set[tuple[str, str]]:
    """What was heard, without who and how often."""
    return {(a.kind, a.wants) for a in report.attempts}


def test_what_tries_to_leave_is_named() -> None:
    report = airgap([sys.executable, "-c", LEAK, "raw"], timeout=60)
    wanted = {("dns", "telemetry.example A"), ("tcp", "198.51.100.20:8443"), ("udp", "198.51.100.20:123")}
    wanted |= {("ip protocol 47", "198.51.100.20")}
    wanted |= {("tcp", "[2001:db8:1::20]:8443"), ("udp", "[2001:db8:1::20]:123")} if report.six else set()
    assert wanted <= heard(report)
    assert not report.ok
    owners = {a.process for a in report.attempts if a.kind in ("dns", "tcp")}
    assert all("python" in owner for owner in owners), owners


def test_mlflow_is_heard_when_its_switch_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gap is closed because of the switches, and not because nobody would have called."""
    code = (
        "import os\n"
        "for name in ('MLFLOW_DISABLE_TELEMETRY', 'DO_NOT_TRACK', 'CI', 'PYTEST_CURRENT_TEST'): os.environ.pop(name, None)\n"
        "from mlflow.telemetry.client import TelemetryClient\n"
        "client = TelemetryClient(); client._get_config() if hasattr(client, '_get_config') else client.activate()\n"
        "import time; time.sleep(1)\n"
    )
    monkeypatch.delenv("CI", raising=False)
    report = airgap([sys.executable, "-c", code], timeout=60)
    assert any("mlflow-telemetry.io" in a.wants for a in report.attempts), (str(report), report.log)


def test_a_proxy_of_the_environment_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    code = "import urllib.request as u\ntry: u.urlopen('https://198.51.100.21/', timeout=0.3)\nexcept OSError: pass"
    assert ("tcp", "198.51.100.21:443") in heard(airgap([sys.executable, "-c", code], timeout=60))


def test_a_program_that_fails_proves_nothing() -> None:
    report = airgap([sys.executable, "-c", "raise SystemExit('no data')"], timeout=60)
    assert (report.ok, report.code, report.attempts) == (False, 1, ())
    assert "no data" in report.log
    assert [check.state for check in room.checks(report)] == ["fail"]


def test_a_program_that_never_ends_is_ended() -> None:
    report = airgap(["sleep", "60"], timeout=0.5)
    assert (report.ok, report.code) == (False, None)
    assert "was ended for taking too long" in str(report)


def test_an_ear_that_hears_nothing_is_found_out() -> None:
    class Deaf(Ear):
        def __init__(self) -> None:
            self.heard: list[tuple[str, str, str]] = []

    env: Mapping[str, str] = os.environ
    missing = plant(Deaf(), six=True, environ=env, patience=0.2)
    assert len(missing) == len(planted("", six=True))


def test_a_result_without_the_tools_is_void(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only `unshare` is on the path: the cell cannot be built, so nothing is concluded and nothing runs."""
    (tmp_path / "unshare").symlink_to(str(shutil.which("unshare")))
    (tmp_path / "true").symlink_to(str(shutil.which("true")))
    monkeypatch.setenv("PATH", str(tmp_path))
    report = airgap([sys.executable, "-c", ""], timeout=60)
    assert report.void
    assert not report.ok
    assert [check.state for check in room.checks(report)] == ["unknown"]


def test_somebody_without_rights_makes_his_own() -> None:
    """Without the rights over networks and mounts, as an ordinary account: through a user namespace."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.geteuid() != 0:
        pytest.skip("only root can give its rights away")
    code = (
        "from researchkit.operations.airgap import airgap, way_in\n"
        "print(way_in()[0][1:], airgap(['true']), sep='|')"
    )
    words = [
        setpriv,
        "--bounding-set=-sys_admin,-net_admin,-net_raw",
        "--inh-caps=-all",
        sys.executable,
        "-c",
        code,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if NOWHERE in done.stdout:
        pytest.skip("user namespaces are not allowed here")
    assert done.stdout.startswith("('-rnm',)|no outbound attempt"), (done.stdout, done.stderr)


def test_where_neither_way_works_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden = (("unshare", "--no-such-option"),)
    monkeypatch.setattr(way_in, "__defaults__", (forbidden,))
    report = airgap(["true"])
    assert not report.ok
    assert NOWHERE in report.void
    assert "allow user namespaces" in report.void
