"""Secrets on their way into what is kept for ever: the archive looks at what a notebook really holds."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from urllib.parse import quote

import pytest
from forked import refused
from vaulted import Vaulted

from researchkit.data.archive import Archive
from researchkit.errors import AccessDenied
from researchkit.security.keys import Keyring
from researchkit.security.master import Master
from researchkit.security.secret import Secret

DAY = date(2004, 12, 31)
WORDS = (
    "correct horse battery staple",
    'pa"ss\\word-12345678"90ab"cd',
    "grün-über-äöüß-schlüssel",
    "hunter2!x",
)


def notebook(*texts: str) -> bytes:
    """A notebook that shows texts, as Jupyter writes it."""
    outputs = [{"output_type": "stream", "name": "stdout", "text": [t]} for t in texts]
    cell = {
        "cell_type": "code",
        "source": ["show()"],
        "outputs": outputs,
        "metadata": {},
        "execution_count": 1,
    }
    return json.dumps(
        {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1
    ).encode()


@pytest.mark.attack("a secret in a notebook's output", tier="embedded")
@pytest.mark.parametrize("word", WORDS)
def test_a_secret_shown_in_a_notebook_is_not_archived(ws: Vaulted, word: str) -> None:
    ws.secrets.put("db", Secret(word))
    archive = Archive(ws.root / "archive", secrets=ws.keys.fingerprints)
    kept = []
    for data in (notebook(word), notebook(f"login with {word!r}"), f"password: {word}".encode()):
        name = hashlib.sha256(data).hexdigest()[:12]
        words = refused(lambda data=data, name=name: archive.put(data, day=DAY, job="j", run="r", name=name))
        assert word not in words
        kept += [] if words else [data]
    assert kept == []
    assert not [p for p in archive.folder.rglob("*") if p.is_file()]
    archive.put(notebook("nothing to hide"), day=DAY, job="j", run="r", name="x")


def bare(text: str) -> bytes:
    """A notebook with its characters as they are."""
    return json.dumps(json.loads(notebook(text)), ensure_ascii=False).encode()


WAYS: dict[str, Callable[[str], bytes]] = {
    "in a table": lambda w: notebook(f"<td>{html.escape(w)}</td>"),
    "in a page": lambda w: f"<td>{html.escape(w)}</td>".encode(),
    "in a page, all signs as numbers": lambda w: "".join(f"&#{ord(c)};" for c in w).encode(),
    "in the header of a login": lambda w: notebook(base64.b64encode(f"reader:{w}".encode()).decode()),
    "in base64 that is broken into lines": lambda w: base64.encodebytes(b"x" * 50 + w.encode() + b"x" * 50),
    "in an address": lambda w: notebook(f"postgresql://reader:{quote(w)}@lake"),
    "as JSON in a notebook": lambda w: notebook(json.dumps({"password": w})),
    "as JSON in JSON in a notebook": lambda w: notebook(json.dumps(json.dumps({"password": w}))),
    "as it is": bare,
    "as the name of a field": lambda w: json.dumps([{w: 1}]).encode(),
    "in a field that is there twice": lambda w: b'{"a": %s, "a": 1}' % json.dumps(w).encode(),
    "in a notebook in UTF-16": lambda w: notebook(w).decode().encode("utf-16"),
    "over two lines of an output": lambda w: json.dumps({"text": [w[:9], w[9:]]}).encode(),
}


@pytest.mark.parametrize("word", WORDS)
def test_no_spelling_of_a_secret_is_archived(ws: Vaulted, word: str) -> None:
    ws.secrets.put("db", {"login": Secret(word)})
    archive = Archive(ws.root / "archive", secrets=ws.keys.fingerprints)
    kept = []
    for way, spelled in WAYS.items():
        place = {"day": DAY, "job": "j", "run": "r", "name": way.replace(" ", "-").replace(",", "")}
        words = refused(lambda spelled=spelled, place=place: archive.put(spelled(word), **place))
        assert word not in words
        kept += [] if "looks like a secret of this workspace" in words else [way]
        archive.put(spelled("nothing to hide at all"), **place)
    assert kept == []


def test_the_passphrase_of_the_keys_is_not_archived(tmp_path: Path) -> None:
    word, folder = WORDS[0], tmp_path / "keys"
    Keyring(folder).create("demo")
    Master(folder, cost=1 << 10).change_passphrase(Secret(word))
    archive = Archive(
        tmp_path / "archive", secrets=Keyring(folder, passphrase=lambda: Secret(word)).fingerprints
    )
    with pytest.raises(AccessDenied, match="looks like a secret of this workspace in"):
        archive.put(notebook(f"unlocked with {html.escape(word)[:10]}", word).decode().encode("utf-16"), day=DAY,
                    job="j", run="r", name="x")  # fmt: skip


def test_every_key_of_a_workspace_is_known_in_base64(ws: Vaulted) -> None:
    ws.keys.create("own")
    ws.keys.signer()
    master = json.loads((ws.root / "keys" / "master.json").read_text())["keyset"]["key"][0]["keyData"][
        "value"
    ]
    raw = base64.b64decode(master)
    archive = Archive(ws.root / "archive", secrets=ws.keys.fingerprints)
    for data in (
        raw,
        raw.hex().encode(),
        master.encode(),
        base64.b64encode(b"x" + raw),
        base64.urlsafe_b64encode(raw),
    ):
        with pytest.raises(AccessDenied, match="looks like a secret of this workspace"):
            archive.put(data, day=DAY, job="j", run="r", name="x")
