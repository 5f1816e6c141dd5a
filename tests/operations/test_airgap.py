"""A program that tries to leave is heard, by name, over every way out; tests/packaging holds the demo to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from researchkit.operations import airgap as room
from researchkit.operations import captivity
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
    missing, _ = plant(Deaf(), 9999, six=True, environ=env, patience=0.2)
    assert len(missing) == len(planted("", 9999, six=True))


def test_whoever_it_is_is_heard_as_long_as_it_lives() -> None:
    """A name whose fifteenth byte is half a letter, and a child of a session of its own that outlives the program."""
    code = (
        "import ctypes, os, socket, time\n"
        "ctypes.CDLL(None).prctl(15, 'üüüüüüüü'.encode(), 0, 0, 0)\n"
        "say = lambda port: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.9', port))\n"
        "for port in (5000, 5001): say(port); time.sleep(0.1)\n"
        "if os.fork() == 0: os.setsid(); time.sleep(0.5); say(5002)\n"
    )
    report = airgap([sys.executable, "-I", "-S", "-c", code], timeout=60)
    assert {("udp", f"203.0.113.9:{port}") for port in (5000, 5001, 5002)} <= heard(report), str(report)
    assert (report.void, report.ok) == ("", False)


def test_who_goes_on_and_on_makes_the_result_void() -> None:
    report = airgap(["sh", "-c", "setsid sleep 61 >/dev/null 2>&1 & sleep 0.2"], linger=0.2)
    assert "sleep (" in report.void
    assert "went on when the program had ended" in report.void
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep 61" not in running.splitlines()


def test_nobody_outside_can_be_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither where the program works nor elsewhere; and the rights to uncover it are gone."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with contextlib.ExitStack() as outside:
        for place in ("here", "there"):
            server = outside.enter_context(socket.socket(socket.AF_UNIX))
            monkeypatch.chdir(tmp_path / place)  # a short name: the kernel takes 107 bytes
            server.bind("helper.sock" if len(str(tmp_path)) > 80 else str(tmp_path / place / "helper.sock"))
            server.listen()
        monkeypatch.chdir(tmp_path / "here")
        code = (
            "import os, socket, subprocess\n"
            "for path in ('helper.sock', '../there/helper.sock'):\n"
            " made = socket.socket(socket.AF_UNIX)\n"
            " try: made.connect(path); os._exit(7)\n"
            " except OSError: pass\n"
            "open('kept', 'w').write('x')\n"
            "if os.geteuid() == 0: os._exit(8 * (subprocess.call(['umount', '/run'], stderr=-3) == 0))\n"
        )
        report = airgap([sys.executable, "-I", "-S", "-c", code], timeout=60)
    assert (report.ok, report.in_reach) == (True, ()), (str(report), report.log)
    assert "none that was known stayed in reach" in str(report)
    assert Path("kept").exists()


def test_the_ear_writes_down_first_and_says_when_it_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    ear = Ear.__new__(Ear)
    ear.heard, ear.failed, ear.dropped = [], "", 0
    packet = bytes([0x45]) + bytes(8) + bytes([17]) + bytes(6) + bytes([198, 51, 100, 7]) + bytes(8)

    class Wire:
        def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int, int]]:
            return packet, ("rkair0", 0x0800, 4)

    def gone(packet: object) -> str:
        raise ProcessLookupError("gone")

    monkeypatch.setattr(captivity, "owner", gone)
    ear._socket = Wire()  # type: ignore[assignment]
    ear._listen()
    assert ear.heard == [("udp", "198.51.100.7:0", "not known")]
    assert ear.failed == "the ear died of ProcessLookupError: gone"
    assert "the ear died" in captivity._why_void(ear, [], [])


def test_an_ear_that_goes_deaf_while_the_program_runs_is_found_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Quiet:
        heard: tuple[tuple[str, str, str], ...] = ()
        failed = ""

        def lost(self) -> int:
            return 0

    plantings = iter((([], "first"), (["udp 198.51.100.7:9998"], "second")))
    stubs: dict[str, Any] = {
        "connect_to_nothing": lambda: ("", False),
        "seclude": lambda *_: ("", []),
        "Ear": lambda device: Quiet(),
        "plant": lambda *_, **__: next(plantings),
        "give_up_rights": lambda: None,
        "_run": lambda *_: 0,
        "left_over": lambda patience: [],
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(captivity, name, stub)
    order = {
        "command": ["true"],
        "scratch": str(tmp_path),
        "timeout": 1,
        "linger": 0,
        "sockets": [],
        "outside": "",
    }
    told = captivity.captive(order)
    assert told["void"].startswith("attempts of our own were not seen after the program had ended: udp")


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
        "print(way_in()[0][1], airgap(['true']), sep='|')"
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
    assert done.stdout.startswith("-rnm|no outbound attempt"), (done.stdout, done.stderr)


def test_where_neither_way_works_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden = (("unshare", "--no-such-option"),)
    monkeypatch.setattr(way_in, "__defaults__", (forbidden,))
    report = airgap(["true"])
    assert not report.ok
    assert NOWHERE in report.void
    assert "allow user namespaces" in report.void
