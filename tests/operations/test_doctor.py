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
from researchkit.operations.check import Check, worst
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
    import nbformat.v4 as v4
    from nbformat import write

    from researchkit.jobs.runner import execute
    from researchkit.jobs.spec import Job

    code = "import os\nfrom researchkit.operations.phonehome import missing\nassert missing(os.environ) == [], missing(os.environ)"
    cells = [v4.new_code_cell("nothing = 0", metadata={"tags": ["parameters"]}), v4.new_code_cell(code)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    write(v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "look.ipynb")
    for name in phonehome.variables():
        monkeypatch.delenv(name, raising=False)
    job = Job("look", tmp_path / "look.ipynb", words="look", hypothesis="H-0")
    done = execute(job, tmp_path / "out.ipynb", parameters={}, env={})
    assert done.failure is None


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
