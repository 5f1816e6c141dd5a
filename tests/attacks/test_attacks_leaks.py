"""Secrets on their way into what is kept for ever: the archive looks at what a notebook really holds."""

from __future__ import annotations

import hashlib
import json
from datetime import date

import pytest
from forked import refused
from vaulted import Vaulted

from researchkit.data.archive import Archive
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
