"""Real servers for every test: each is started when the first test of a session asks for it.

A server's module has `serving(folder, authority)`, a context manager that yields it running.
Tests that use one carry `pytest.mark.xdist_group` with its name, so that it is started once.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from tls import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the servers' certificates."""
    return Authority(tmp_path_factory.mktemp("authority"))


def server(name: str) -> Any:
    """A fixture that serves the module of this name to a whole session."""

    @pytest.fixture(scope="session", name=name)
    def serve(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Any]:
        with import_module(name).serving(tmp_path_factory.mktemp(name), authority) as running:
            yield running

    return serve


gateway = server("gateway")
openbao = server("openbao")
postgresql = server("postgresql")
radosgw = server("radosgw")
vendor = server("vendor")
witness = server("witness")
