from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.dns64.sidecar import Sidecar
from tests.dns64.upstreams import Answerer, Upstream

PLUGINS = """\
bind ::1
errors
health [::1]:HEALTH
ready [::1]:READY
prometheus [::1]:METRICS
"""
_FORWARD = re.compile(r"^(forward .*[^{\s])$", re.MULTILINE)
"""A stanza without options. Upstreams are threads of the tests, and a busy machine may keep them
waiting: that is no failure that should lead to another question.
"""
DNS64 = "dns64 {\nprefix 64:ff9b:1::/96\n}\n"


class StartUpstream(Protocol):
    def __call__(self, answer: Answerer, address: str = "::1", port: int = 0) -> Upstream: ...


class StartSidecar(Protocol):
    def __call__(
        self, body: str, *, plugins: str = PLUGINS, dns64: str = DNS64, address: str = "::1"
    ) -> Sidecar: ...


@pytest.fixture
def upstream() -> Iterator[StartUpstream]:
    """Starts name servers; each ends with the test."""
    started: list[Upstream] = []

    def start(answer: Answerer, address: str = "::1", port: int = 0) -> Upstream:
        started.append(Upstream(answer, address, port))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[StartSidecar]:
    """Starts sidecars: the usual stanzas, then those of the test; each ends with the test."""
    started: list[Sidecar] = []

    def start(
        body: str, *, plugins: str = PLUGINS, dns64: str = DNS64, address: str = "::1"
    ) -> Sidecar:
        directory = tmp_path / str(len(started))
        directory.mkdir()
        patient = _FORWARD.sub(r"\1 {\nread_timeout 15s\n}", body)
        corefile = f".:PORT {{\n{plugins}{dns64}{patient}\n}}\n"
        started.append(Sidecar(directory, corefile, address=address))
        return started[-1]

    yield start
    for process in started:
        process.close()
