"""What the doctor must see: each fault is made, and the check that names it is found."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from commandline import PROGRAM

import researchkit
from researchkit.operations import phonehome, reach
from researchkit.operations.check import Check, page, worst
from researchkit.operations.doctor import examine, server_checks
from researchkit.settings import environment, read
from researchkit.workspace import Workspace

ROOT = Path(__file__).parents[2]
LAB = ROOT / "environments" / "jupyter"


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A fresh embedded workspace that nobody else can enter."""
    root = tmp_path / "desk"
    made = researchkit.open(root)
    root.chmod(0o700)
    return made


def found(ws: Workspace, area: str) -> list[Check]:
    """What the doctor says of one area."""
    switched = {**phonehome.variables()}
    return [check for check in examine(ws, environ=switched, lab=False) if check.area == area]


def test_a_fresh_workspace_has_nothing_that_fails(ws: Workspace) -> None:
    checks = examine(ws, environ=phonehome.variables(), lab=False)
    assert [str(check) for check in checks if check.state == "fail"] == []
    areas = {check.area for check in checks}
    assert areas >= {
        "tier",
        "volumes",
        "modes",
        "keys",
        "raw zone",
        "ledger",
        "witness",
        "clock",
        "telemetry",
    }
    assert worst(checks) in ("warn", "unknown")


def test_it_changes_nothing(ws: Workspace) -> None:
    assert ws.ledger.head() is None
    examine(ws, environ={}, lab=False)
    assert ws.ledger.head() is None


@pytest.mark.parametrize(
    ("where", "mode", "state"), [("keys", 0o755, "fail"), ("policy", 0o777, "fail"), (".", 0o755, "warn")]
)
def test_loose_modes_are_named(where: str, mode: int, state: str, ws: Workspace) -> None:
    assert [check.state for check in found(ws, "modes")] == ["ok"]
    (ws.root / where).chmod(mode)
    assert [check.state for check in found(ws, "modes") if check.state != "ok"] == [state]


def test_a_key_that_others_may_read_is_named(ws: Workspace) -> None:
    path = ws.root / "keys" / "spare.json"
    path.write_text("{}")
    path.chmod(0o640)
    checks = [check for check in found(ws, "modes") if check.state == "fail"]
    assert [check.name for check in checks] == ["spare.json"]
    assert "chmod 600" in checks[0].remedy


def test_a_guard_that_is_gone_is_named(ws: Workspace) -> None:
    assert ws.ledger.head() is None
    with closing(sqlite3.connect(ws.root / "ledger.db")) as base:
        base.execute("DROP TRIGGER entries_stay")
        base.commit()
    failing = [check for check in found(ws, "ledger") if check.state == "fail"]
    assert ["entries_stay" in check.words for check in failing] == [True]


def test_an_unwrapped_key_is_named(ws: Workspace) -> None:
    path = ws.root / "keys" / "old.json"
    path.write_text(json.dumps({"primaryKeyId": 1, "key": [{"keyData": {"value": "hunter2"}}]}))
    path.chmod(0o600)
    checks = found(ws, "keys")
    assert any("old.json" in check.words for check in checks)
    assert "hunter2" not in repr(checks)


def test_a_passphrase_hides_no_key_that_lies_beside_it(ws: Workspace) -> None:
    """The early answer "a passphrase" once ended the examination of keys."""
    from researchkit.security.master import Master
    from researchkit.security.secret import Secret

    master = Master(ws.root / "keys", lambda: Secret("correct horse battery"), cost=1024)
    if not master.exists():
        master.create()
    assert master.protected
    assert [check.state for check in found(ws, "keys")] == ["ok"]
    for name, content in (
        ("old.json", '{"key": [{"keyData": {}}]}'),
        ("secrets/s.json", '{"value": "hunter2"}'),
    ):
        path = ws.root / "keys" / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(content)
        path.chmod(0o600)
    states = {check.name: check for check in found(ws, "keys")}
    assert states["wrapping"].state == "fail"
    assert "2 lie unwrapped, old.json first" in states["wrapping"].words
    assert "hunter2" not in repr(states)


def test_rules_of_somebody_else_are_named(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(ws.root / "policy", 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    failing = [check for check in found(ws, "modes") if check.state == "fail"]
    assert any(check.name == "policy" and "which can replace it" in check.words for check in failing)


@pytest.mark.parametrize(
    ("where", "area"), [("ledger.db", "ledger"), ("catalog.db", "catalog"), ("raw/a/b", "raw")]
)
def test_data_that_others_can_write_are_named(where: str, area: str, ws: Workspace) -> None:
    path = ws.root / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(0o666)
    failing = [check for check in found(ws, "modes") if check.state == "fail"]
    assert [check.name for check in failing] == [area]
    assert "0666" in failing[0].words


def test_a_volume_that_a_later_mount_hides_is_not_believed(tmp_path: Path) -> None:
    """The table keeps the hidden line, which is longer; the kernel's own device decides."""
    from researchkit.operations.volumes import System

    (tmp_path / "self").mkdir()
    lines = f"1 0 254:0 / / rw - nfs4 filer:/ rw\n2 1 0:40 / {tmp_path} rw - tmpfs tmpfs rw\n"
    (tmp_path / "self" / "mountinfo").write_text(lines)
    states = {
        d: System(tmp_path, tmp_path, lambda _, d=d: d).volume(tmp_path).state
        for d in ("0:40", "254:0", "9:9")
    }
    assert states == {"0:40": "memory", "254:0": "unknown", "9:9": "unknown"}
    assert "filer" in System(tmp_path, tmp_path, lambda _: "254:0").volume(tmp_path).words


def test_a_clock_that_is_kept_far_off_and_a_witness_that_never_signed_are_named() -> None:
    from researchkit.operations.doctor import _seen
    from researchkit.security.audit import LedgerReport

    assert [check.state for error in (0.1, 15.9) for check in reach.clock_checks(True, error)] == [
        "ok",
        "warn",
    ]
    reports = [
        LedgerReport(n, "", 0, 1, witnessed=seen) for n, seen in ((0, None), (3, None), (3, 0), (3, 3))
    ]
    states = [check.state for report in reports for check in _seen(report, witnessed=True)]
    assert states == ["ok", "fail", "fail", "ok"]


def test_no_error_ends_the_examination(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    import researchkit.operations.doctor as doctor

    def stumble(ws: Workspace) -> list[Check]:
        return [Check("ledger", "size", "ok", "" * int("hunter2"))]

    monkeypatch.setattr(doctor, "ledger_checks", stumble)
    checks = examine(ws, environ=phonehome.variables(), lab=False)
    stopped = [check for check in checks if check.name == "examination"]
    assert [(check.area, check.state) for check in stopped] == [("ledger", "fail")]
    assert "ValueError" in stopped[0].words
    assert "hunter2" not in repr(checks)
    assert checks[-1].area == "perimeter"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_page_fits_its_terminal_and_says_the_worst_first(width: int, ws: Workspace) -> None:
    checks = examine(ws, environ={}, lab=False)
    lines = page(checks, width=width)
    states = [line.split()[0] for line in lines if line[:9] in ("fail     ", "unknown  ", "warn     ")]
    assert states == sorted(states, key=("fail", "unknown", "warn").index)
    assert [line for line in lines if len(line) > width and " " in line.lstrip(" →")] == []
    assert len(page(checks, width=width, everything=True)) > len(lines)


def test_an_address_outside_is_a_failure_and_a_part_that_stops_hides_nothing(tmp_path: Path) -> None:
    login = tmp_path / "login.json"
    url = f"vault://198.51.100.9:8200/desk?login={login}"
    site = researchkit.open(tmp_path / "desk", overrides={"secrets_url": url})
    outside = [c for c in _perimeter(site) if c.name == "secrets_url"]
    assert [c.state for c in outside] == ["fail"]


def _perimeter(ws: Workspace) -> list[Check]:
    from researchkit.operations.perimeter import checks

    return list(checks(ws.settings, {}))


# --- real TLS ---


@contextmanager
def serving(certificate: Path, key: Path) -> Iterator[int]:
    """An HTTPS server on a free port."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("days", "states"),
    [(90, ["ok", "ok"]), (5, ["warn", "ok"]), (-1, ["fail"])],
    ids=["good", "soon", "over"],
)
def test_the_end_of_a_certificate_is_seen(
    days: float, states: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = _authority(tmp_path, monkeypatch)
    made = authority.issue("witness", days=days)
    with serving(made.path, made.key) as port:
        url = f"https://127.0.0.1:{port}?key={'0' * 64}&name=w&ca={authority.ca}"
        checks = list(server_checks(read(tmp_path, {"witness_url": url})))
    assert [check.state for check in checks] == states, [str(check) for check in checks]


def test_a_server_of_somebody_else_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = _authority(tmp_path / "a", monkeypatch), _authority(tmp_path / "b", monkeypatch)
    made = other.issue("witness")
    with serving(made.path, made.key) as port:
        answer = reach.ask("127.0.0.1", port, ca=mine.ca)
    assert not answer.trusted


def _authority(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "servers"))
    from tls import Authority

    return Authority(folder)


# --- the switches are on in every process that we start ---


def test_the_environment_carries_every_switch() -> None:
    assert {k: environment().get(k) for k in phonehome.variables()} == phonehome.variables()


def test_these_tests_carry_every_switch() -> None:
    assert phonehome.missing(os.environ) == []


def test_the_command_line_sets_every_switch(tmp_path: Path) -> None:
    """Whatever the shell says: the first thing that the program does is to set them."""
    code = (
        "import os, sys; sys.argv = ['researchkit', '--version']\nimport researchkit.cli as c\n"
        "try: c.main()\nexcept SystemExit: pass\n"
        "from researchkit.operations.phonehome import missing; print(missing(os.environ))"
    )
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OTEL_SDK_DISABLED": "false"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=bare)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
    assert PROGRAM.exists()


def test_the_kernel_of_a_job_carries_every_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an engine that starts a bare process where a kernel would be: the variables are what matters here."""
    papermill = pytest.importorskip("papermill")
    from researchkit.jobs import runner
    from researchkit.jobs.spec import Job

    code = "import json, os; print(json.dumps(dict(os.environ)))"
    seen: dict[str, str] = {}

    def engine(env: dict[str, str], place: Path, progress: object) -> type:
        words = [sys.executable, "-I", "-S", "-c", code]
        seen.update(json.loads(subprocess.run(words, env=env, capture_output=True, check=True).stdout))
        return object

    monkeypatch.setattr(runner, "_engine", engine)
    monkeypatch.setattr(runner, "checked", lambda job, given: {})
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: None)
    for name in phonehome.variables():
        monkeypatch.delenv(name, raising=False)
    job = Job("look", tmp_path / "look.ipynb", words="look", hypothesis="H-0")
    assert runner.execute(job, tmp_path / "out.ipynb", parameters={}, env={}).failure is None
    assert phonehome.missing(seen) == []


def test_make_hands_every_switch_to_the_lab() -> None:
    if (make := shutil.which("make")) is None:
        pytest.fail("make is not on the path")
    words = [make, "-s", "-C", str(ROOT), "--no-print-directory", "--eval", "show-it: ; @env", "show-it"]
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    lines = subprocess.run(words, capture_output=True, text=True, check=True, env=bare).stdout.splitlines()
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    assert phonehome.missing(seen) == []
    assert Path(seen.get("JUPYTER_CONFIG_PATH", "")).resolve() == LAB


def test_jupyterlab_is_silent_with_the_configuration_that_make_hands_it() -> None:
    settings = phonehome.lab_settings({**os.environ, "JUPYTER_CONFIG_PATH": str(LAB)})
    assert phonehome.lab_missing(settings) == []
