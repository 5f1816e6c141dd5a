"""Let children of one warm process do the Vault's work, kill them where or when asked, and look at what is left.

A script is a list of steps, `["put", "a.dbn", 3, 5000]`. A child does them one after the other and writes each down
in a file once it was acknowledged. `inspect` then opens the workspace as a new process would and says what is wrong:
something acknowledged that is not there, something half there, a chain that does not hold.

    python tests/faults/killing_vault.py      # serve on standard input and output
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "attacks"))
sys.path.insert(0, str(Path(__file__).parent))

from killing import HARMLESS, child, counted
from vaulted import ME, TABLE, Vaulted, create, remove, reopen, witnessed

Step = list[Any]  # its name and what it is given
HEAVY = ("alembic.runtime.environment", "cryptography.hazmat.primitives.asymmetric.ed25519", "filelock", "regopy",
         "sqlalchemy.dialects.sqlite", "tink.aead", "tink.streaming_aead", "tqdm.auto")  # fmt: skip
CLIENTS = (
    "botocore.session",
    "hvac",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "tink.integration.hcvault",
)
ROOMS = (
    "researchkit.security.",
    "researchkit.data.raw",
    "researchkit.data.s3",
    "researchkit.data.migrations.",
)


# --- the work ---------------------------------------------------------------------------------


def content(seed: int, size: int) -> bytes:
    """A vendor's file, which anybody can make again from its seed."""
    return random.Random(seed).randbytes(size)


def sha256_of(seed: int, size: int) -> str:
    """Its name in the raw zone."""
    return hashlib.sha256(content(seed, size)).hexdigest()


def prepare(root: str, settings: dict[str, str] | None = None, witness: bool = False) -> None:
    """Make a workspace with its keys and one line on its ledger, perhaps with a witness beside it."""
    ws = create(Path(root), **(settings or {}))
    ws.keys.create("own")
    ws.keys.create("lent")
    ws = witnessed(ws) if witness else ws
    ws.ledger.append("begin", {}, ME)
    assert ws.raw.objects() == []
    if ws.witness is not None:
        assert ws.ledger.checkpoint().cosigned


def work(root: str, acks: str, script: list[Step]) -> int:
    """Do the steps, and write down each that was acknowledged."""
    ws = reopen(Path(root))
    with open(acks, "ab", buffering=0) as said:
        said.write(b"[]\n")
        for step in script:
            done = STEPS[step[0]](ws, *step[1:])
            said.write(json.dumps([*step, done]).encode() + b"\n")
    return len(script)


def _over(ws: Vaulted, seed: int, size: int) -> bool:
    """Whether an earlier attempt deleted an object, or destroyed its key."""
    if (known := ws.raw.find(sha256_of(seed, size))) is None:
        return False
    if known.deleted_ns is not None or known.key_name in ws.keys.destroyed():
        return True
    begun = ws.ledger.entries(kind="delete", subject=f"raw:{known.sha256}")
    return bool(begun) and ws.raw.store.stat(known.path, known.store_version) is None


def _put(ws: Vaulted, name: str, seed: int, size: int, key: str = "own") -> str:
    if _over(ws, seed, size):
        return sha256_of(seed, size)
    return str(ws.raw.put(content(seed, size), name=name, key=key, table=TABLE, context=ME).sha256)


def _append(ws: Vaulted, number: int, lines: int = 1) -> list[list[Any]]:
    given = [("note", {"number": number, "line": i}, f"run:{number}") for i in range(lines)]
    return [[entry.seq, entry.hash] for entry in ws.ledger.append_many(given, ME)]


def _checkpoint(ws: Vaulted) -> str:
    signed = ws.ledger.checkpoint()
    assert ws.witness is None or signed.cosigned, signed.words
    return str(signed)


def _secret(ws: Vaulted, name: str, value: str) -> int:
    from researchkit.security.secret import Secret

    return int(ws.secrets.put(name, Secret(value)))


def _key(ws: Vaulted, name: str) -> str:
    ws.keys.create(name)
    return name


def _retain(ws: Vaulted, seed: int, size: int, until_ns: int) -> int:
    until = datetime.fromtimestamp(until_ns // 10**9, UTC)
    if not _over(ws, seed, size):
        ws.raw.retain(sha256_of(seed, size), until, context=ME)
    return until_ns


def _hold(ws: Vaulted, seed: int, size: int, on: bool) -> bool:
    if not _over(ws, seed, size):
        ws.raw.hold(sha256_of(seed, size), on, "a court asks", context=ME)
    return on


def _delete(ws: Vaulted, seed: int, size: int) -> str:
    from researchkit.security.durable import clear_immutable

    sha256 = sha256_of(seed, size)
    found = ws.raw.find(sha256)
    if found.deleted_ns is None:
        path = ws.root / "raw" / found.path
        if path.exists():
            clear_immutable(
                path
            )  # only `workspace destroy` does that; here the file system may have no such flag
        ws.raw.delete(sha256, context=ME)
    return sha256


def _shred(ws: Vaulted, name: str) -> str:
    if name not in ws.keys.destroyed() or ws.keys.exists(name):  # else in an earlier attempt
        ws.keys.destroy(name)
    return name


def _rotate(ws: Vaulted) -> int:
    ws.keys.rotate()
    return 0


def _arm(ws: Vaulted, count: str, at: str) -> None:
    """Ask for a kill from here on."""
    Path(count).unlink(missing_ok=True)
    os.environ |= {"RESEARCHKIT_KILL_COUNT": count, "RESEARCHKIT_KILL_AT": at}


STEPS: dict[str, Callable[..., Any]] = {
    "put": _put, "append": _append, "checkpoint": _checkpoint, "secret": _secret, "key": _key, "retain": _retain,
    "hold": _hold, "delete": _delete, "shred": _shred, "rotate": _rotate, "arm": _arm,
}  # fmt: skip


# --- what is left -----------------------------------------------------------------------------


def inspect(root: str, acks: str, finished: bool = False) -> list[str]:
    """Everything that is wrong in a workspace, given what was acknowledged; `finished`: the script ran to its end."""
    ws = reopen(Path(root))
    said = [json.loads(line) for line in Path(acks).read_text().splitlines()] if Path(acks).exists() else []
    said = [step for step in said if step]
    gone = {entry.subject.removeprefix("raw:") for entry in ws.ledger.entries(kind="delete")}  # begun or done
    dead = set(ws.keys.destroyed())
    wrong: list[str] = []
    for step in said:
        try:
            missing = _missing(ws, step, gone, dead, said)
        except Exception as e:
            missing = f"{type(e).__name__}: {e}"
        if missing:
            wrong.append(f"acknowledged {step[:-1]} is lost: {missing}")
    try:
        report = ws.ledger.verify()
        wrong += [f"unchecked: {words}" for words in report.remarks if ws.witness is not None]
    except Exception as e:
        wrong.append(f"chain: {e}")
    try:
        wrong += [f"half there: {words}" for words in _half(ws, finished, gone, dead)]
    except Exception as e:
        wrong.append(f"half there: {type(e).__name__}: {e}")
    return wrong


def _missing(ws: Vaulted, step: Step, gone: set[str], dead: set[str], said: list[Step]) -> str:
    """Why an acknowledged step cannot be found again."""
    kind, done = step[0], step[-1]
    if kind == "put":
        name, seed, size = step[1:4]
        if done in gone or (step[4:-1] and step[4] in dead):
            return ""
        if ws.raw.get(done, context=ME) != content(seed, size):
            return "other bytes"
        lines = ws.ledger.entries(kind="object", subject=f"raw:{done}")
        versions = [v for v in ws.raw.versions(name, TABLE) if v.sha256 == done]
        return (
            "" if (len(lines), len(versions)) == (1, 1) else f"{len(lines)} lines, {len(versions)} versions"
        )
    if kind == "append":
        found = [[e.seq, e.hash] for e in ws.ledger.entries(kind="note", subject=f"run:{step[1]}")]
        return "" if all(entry in found for entry in done) else f"the ledger has {found}"
    if kind == "checkpoint":
        ws.ledger.verify(full=False, checkpoint=done)
        body = done.partition("\n\n")[0]
        return "" if any(note.startswith(body) for note in ws.ledger.notes()) else "no such note is kept"
    return _missing_else(ws, step, gone, dead, said)


def _missing_else(ws: Vaulted, step: Step, gone: set[str], dead: set[str], said: list[Step]) -> str:
    """The same, for what has no bytes and no line of its own."""
    kind, done = step[0], step[-1]
    if kind == "secret":
        value, version = ws.secrets.get(step[1]).reveal(), ws.secrets.version(step[1])
        last = next(s for s in reversed(said) if s[:2] == step[:2])
        return (
            ""
            if version > last[-1] or (version, value) == (last[-1], last[2])
            else f"{value}, version {version}"
        )
    if kind == "key" and done not in dead:
        return "" if ws.keys.exists(done) else "no such key"
    if kind == "shred":
        return "it is still there" if ws.keys.exists(done) or done not in ws.keys.destroyed() else ""
    if kind == "delete":
        there = ws.raw.store.stat(ws.raw.find(done).path, ws.raw.find(done).store_version)
        return "" if there is None and ws.raw.find(done).deleted_ns is not None else "it is still there"
    if kind in ("retain", "hold"):
        sha256 = sha256_of(*step[1:3])
        if sha256 in gone:
            return ""
        state = ws.raw.custody(sha256)
        word = ws.ledger.entries(
            kind="hold", subject=f"raw:{sha256}", limit=1
        )  # the last is done, or under way
        return (
            ""
            if (state.until_ns >= done if kind == "retain" else state.held >= word[0].body["on"])
            else repr(state)
        )
    return ""


def _half(ws: Vaulted, finished: bool, gone: set[str], dead: set[str]) -> list[str]:
    """What is listed and does not open, lies about and is not listed, or has a row and no line."""
    wrong = []
    for found in ws.raw.objects():
        if found.sha256 in gone and not finished:
            continue
        if found.key_name not in dead and not (finding := ws.raw.check(found)).ok:
            wrong.append(finding.words)
        if len(ws.ledger.entries(kind="object", subject=f"raw:{found.sha256}")) != 1:
            wrong.append(f"{found.sha256} has a row and not one line")
    if not finished:
        return wrong
    from researchkit.data.store import FileStore

    wrong += [f"left over: {p.relative_to(ws.root)}" for p in sorted(ws.root.rglob(".tmp-*"))]
    if isinstance(ws.raw.store, FileStore):
        there = {
            str(p.relative_to(ws.root / "raw"))
            for p in (ws.root / "raw" / "objects").rglob("*")
            if p.is_file()
        }
        held = {o.path for o in ws.raw.objects()}
        wrong += [f"in no register: {p}" for p in sorted(there - held)]
        wrong += [f"missing: {p}" for p in sorted(held - there)]
    lines = {e.subject for e in ws.ledger.entries(kind="object")}
    rows = {f"raw:{r['sha256']}" for r in ws.registry.rows("SELECT sha256 FROM raw_objects")}
    return wrong + [f"a line and no row: {s}" for s in sorted(lines ^ rows)]


WORK: dict[str, Callable[..., Any]] = {
    "prepare": prepare, "work": work, "inspect": inspect, "remove": lambda root: remove(Path(root)),
}  # fmt: skip


# --- the server -------------------------------------------------------------------------------


def warm_up() -> list[str]:
    """Import what the work imports; returns the names of threads that make forking unsafe."""
    import importlib
    import pkgutil

    import researchkit

    for name in (*HEAVY, *(CLIENTS if "servers" in sys.argv else ())):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(researchkit.__path__, "researchkit."):
        if module.name.startswith(ROOMS) and "verifier" not in module.name:
            importlib.import_module(module.name)
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if not name.startswith(HARMLESS)]


def serve() -> None:
    """Answer requests until the input ends."""
    say = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    print(json.dumps({"pools": warm_up()}), file=say, flush=True)
    with tempfile.TemporaryDirectory(prefix="killing-") as place:
        for line in sys.stdin:
            print(json.dumps(answer_to(json.loads(line), Path(place))), file=say, flush=True)


def answer_to(request: dict[str, Any], place: Path) -> dict[str, Any]:
    """Fork a child for one request, and say how it ended."""
    answer, log = place / "answer.json", place / "log.txt"
    answer.unlink(missing_ok=True)
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        child(WORK, request, answer, log)
    if "kill_after" in request:
        begun = Path(request["with"]["acks"])
        while not begun.exists() and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.0002)
        time.sleep(request["kill_after"] / 1e6)
        os.kill(pid, signal.SIGKILL)  # one that has ended is not gone before it is waited for
    _, status = os.waitpid(pid, 0)
    reply = {"code": os.waitstatus_to_exitcode(status), "seconds": time.perf_counter() - started}
    reply["answer"] = json.loads(answer.read_text()) if reply["code"] == 0 else None
    reply["log"] = log.read_text()[-4000:] if log.exists() else ""
    return reply


# --- for those who ask ------------------------------------------------------------------------


class Warm:
    """A server and the questions that tests and studies have for it."""

    def __init__(self, *, servers: bool = False) -> None:
        """Start it; with the clients of `servers` where they will be needed."""
        from researchkit.settings import environment

        names = {k: v for k, v in os.environ.items() if not k.startswith("RESEARCHKIT_")}
        env = {**names, **environment(), "PYTHONHASHSEED": "1", "POLARS_MAX_THREADS": "1"}
        command = [
            sys.executable,
            "-W",
            "ignore",
            str(Path(__file__).absolute()),
            *(["servers"] if servers else []),
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True
        )
        assert self.process.stdout is not None
        self.pools: list[str] = json.loads(self.process.stdout.readline())["pools"]

    def ask(
        self, work: str, *, env: dict[str, str] | None = None, kill_after: int | None = None, **given: Any
    ) -> dict[str, Any]:
        """Have a child do one piece of work, perhaps only so many microseconds of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"work": work, "env": env or {}, "with": {k: _plain(v) for k, v in given.items()}}
        request |= {} if kill_after is None else {"kill_after": kill_after}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server of warm processes ended with {self.process.wait(30)}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def must(self, work: str, **given: Any) -> Any:
        """The answer of a piece of work that must succeed."""
        reply = self.ask(work, **given)
        if reply["code"] != 0:
            raise RuntimeError(f"{work} ended with {reply['code']}:\n{reply['log']}")
        return reply["answer"]

    def close(self) -> None:
        """End the server."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def hits(warm: Warm, root: Path, script: list[Step]) -> dict[str, int]:
    """How often a script reaches each instant when nobody kills it."""
    count = root.with_suffix(".count")
    warm.must(
        "work",
        root=root,
        acks=root.with_suffix(".acks"),
        script=script,
        env={"RESEARCHKIT_KILL_COUNT": str(count)},
    )
    return counted(count)


def killed(
    warm: Warm,
    root: Path,  # a workspace of its own
    script: list[Step],
    *,
    at: tuple[str, ...] = (),  # "entry:before:17"; several: each rerun is killed again at the next
    after: int | None = None,  # microseconds
) -> tuple[bool, list[str]]:  # whether it died each time, and what is wrong
    """Kill the script, look each time, let it run to its end, and look again."""
    acks, count, died, wrong = root.with_suffix(".acks"), root.with_suffix(".count"), True, []
    for instant in at or ("",):
        env = {"RESEARCHKIT_KILL_COUNT": str(count), "RESEARCHKIT_KILL_AT": instant} if instant else {}
        run = warm.ask("work", root=root, acks=acks, script=script, env=env, kill_after=after)
        count.unlink(missing_ok=True)
        if run["code"] not in (0, -signal.SIGKILL):
            return False, [*wrong, f"ended with {run['code']} instead of a kill: {run['log'][-700:]}"]
        died &= run["code"] != 0
        wrong += [f"after the kill: {words}" for words in warm.must("inspect", root=root, acks=acks)]
    again = warm.ask("work", root=root, acks=acks, script=script)
    if again["code"] != 0:
        return died, [*wrong, f"does not run again: {again['log'][-700:]}"]
    left = warm.must("inspect", root=root, acks=acks, finished=True)
    return died, wrong + [f"after the rerun: {words}" for words in left]


# --- at random ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One kill of a study: a script, and when it is killed."""

    number: int
    seed: int
    how: str = ""  # "clock" or "site"; default: one after the other

    @property
    def dice(self) -> random.Random:
        """What decides everything about it."""
        return random.Random(self.seed * 1_000_003 + self.number)

    @property
    def manner(self) -> str:
        """Whether the clock or a durable site says when."""
        return self.how or ("clock", "site")[self.number % 2]

    def script(self) -> list[Step]:
        """Six to twelve steps of put, append and checkpoint."""
        dice, steps = self.dice, []
        for place in range(dice.randint(6, 12)):
            kind = dice.choice(("put", "put", "append", "append", "checkpoint"))
            tag = self.number * 100 + place
            if kind == "put":
                steps.append(
                    [
                        "put",
                        f"{self.number}-{dice.randint(0, 3)}.dbn",
                        tag,
                        int(100 * 10 ** dice.uniform(0, 4.3)),
                    ]
                )
            else:
                steps.append(
                    ["append", tag, dice.choice((1, 1, 20, 200))] if kind == "append" else ["checkpoint"]
                )
        return steps

    def when(self, reached: dict[str, int], seconds: float) -> dict[str, Any]:
        """The instant: so many microseconds after the beginning, or at one arrival at one site."""
        dice = random.Random(self.seed * 7_368_787 + self.number)
        if self.manner == "clock":
            return {"after": int(dice.uniform(0, 0.7 * seconds) * 1e6)}
        at = dice.choice(
            [f"{name}:{n}" for name, hits in sorted(reached.items()) for n in range(1, hits + 1)]
        )
        return {"at": (at,)}


def run_case(warm: Warm, template: Path, case: Case, place: Path) -> dict[str, Any]:
    """Kill a fresh copy of a workspace once, and say what came of it."""
    trial, root = place / f"trial-{case.number}", place / f"killed-{case.number}"
    shutil.copytree(template, trial)
    shutil.copytree(template, root)
    try:
        started = time.perf_counter()
        reached = hits(warm, trial, case.script())
        when = case.when(reached, time.perf_counter() - started)
        died, wrong = killed(warm, root, case.script(), **when)
        return {
            "case": case.number,
            "how": case.manner,
            "died": died,
            "wrong": wrong,
            "acknowledged": before_the_kill(root),
        } | when
    finally:
        for path in (trial, root):
            warm.ask("remove", root=path)
            path.with_suffix(".acks").unlink(missing_ok=True)


def before_the_kill(root: Path) -> int:
    """How many steps the run that was killed had acknowledged."""
    acks = root.with_suffix(".acks")
    said = acks.read_text().splitlines() if acks.exists() else []
    starts = [i for i, line in enumerate(said) if line == "[]"]
    return max(0, (starts[1] if len(starts) > 1 else len(said)) - 1)


if __name__ == "__main__":
    serve()
