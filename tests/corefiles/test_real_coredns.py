"""Every text that is written loads in the real CoreDNS, wherever its original does.

Only what can't be on one machine is put in other places: ports, listening addresses, and the API
server. CoreDNS is not asked anything here; that `tests/operator/test_coredns.py` does.
"""

import os
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from nat64_dataplane import corefile
from tests.cluster import ControlPlane, binaries
from tests.cluster.pki import Authority
from tests.corefiles import expectations
from tests.corefiles.driver import WAYS, names, read, run
from tests.operator.test_coredns import free_port

pytestmark = pytest.mark.apiserver

LISTENERS = ("prometheus", "health", "ready", "pprof", "loop")
"""Stanzas that listen beside DNS, or find that there is no internet here."""
THEIR_FOLDER = "/etc/coredns/"


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """What `kubernetes` stanzas ask."""
    with ControlPlane() as running:
        yield running


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in CoreDNS's own pod: a certificate, an authority, and a resolv.conf."""
    folder = tmp_path_factory.mktemp("etc-coredns")
    authority = Authority(folder)
    authority.issue("cert", "dns.example", hosts=("dns.example",))
    authority.certificate("cert").rename(folder / "cert.pem")
    authority.key("cert").rename(folder / "key.pem")
    authority.certificate("ca").rename(folder / "ca.crt")
    (folder / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    return folder


def here(text: str, control_plane: ControlPlane, ports: dict[str, int]) -> str:
    """The Corefile with this machine's ports, addresses and API server."""
    tree = corefile.parse(text)
    edits = []
    for number, block in enumerate(tree.blocks):
        for key in block.keys:
            found = re.search(r":(\d+)$", key.text)
            if found and not key.text.startswith("["):
                start = key.end - len(found[1])
                edits.append(corefile.Edit(start, key.end, str(ports[found[1]])))
        for stanza in block.stanzas:
            name = stanza.name.text
            if name in LISTENERS:
                edits.append(corefile.Edit(stanza.start, stanza.end, ""))
            elif name == "bind":
                # Two blocks of one zone and port need addresses that differ.
                edits.append(corefile.replace(stanza, f"bind 127.0.0.{number + 1}"))
            elif name == "kubernetes":
                kubeconfig = f"kubeconfig {control_plane.kubeconfig}"
                if stanza.close is None:
                    edits.append(corefile.Edit(stanza.end, stanza.end, f" {{\n{kubeconfig}\n}}"))
                else:
                    at = stanza.close.start
                    edits.append(corefile.Edit(at, at, f"{kubeconfig}\n"))
    return corefile.apply(text, edits)


def loads(text: str, folder: Path, control_plane: ControlPlane, files: Path) -> str:
    """Why CoreDNS doesn't run with it; empty where it does."""
    ports: dict[str, int] = defaultdict(free_port)
    path = folder / "Corefile"
    moved = here(text, control_plane, ports).replace(THEIR_FOLDER, f"{files}/")
    path.write_bytes(moved.encode())
    program = binaries.ensure("coredns")["coredns"]
    argv = ["setpriv", "--pdeathsig", "KILL", "--", str(program), "-conf", str(path)]
    argv += [f"-dns.port={ports['53']}"]
    log = folder / "log"
    env = {**os.environ, "ZONE": "zone.example", "UPSTREAM": "192.0.2.53"}
    with log.open("wb") as output:
        process = subprocess.Popen(argv, cwd=folder, stdout=output, stderr=output, env=env)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            said = log.read_text(errors="replace")
            if re.search(r"^CoreDNS-\d", said, re.M):  # the banner, after everything has started
                return ""
            if process.poll() is not None:
                return said
            time.sleep(0.05)
        return f"not in 30 s: {log.read_text(errors='replace')}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", sorted(set(names()) - expectations.NOT_STARTED.keys()))
def test_what_is_written_loads_wherever_the_original_does(
    name: str, tmp_path: Path, control_plane: ControlPlane, files: Path
) -> None:
    text = read(name)
    assert loads(text, tmp_path, control_plane, files) == ""
    for way in WAYS[:3]:
        for written in run(text, way).texts:
            assert loads(written, tmp_path, control_plane, files) == "", way
