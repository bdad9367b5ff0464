"""A TCP connection through the translator that goes on until the test has seen enough."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from tests.cluster.product import Pod
from tests.cluster.run import wait_for

RATE = 100_000
HOST = "ipv4only.internet.example"


class LiveFlow:
    """A download without end, of bytes that only the server knows."""

    def __init__(self, pod: Pod, name: str) -> None:
        self._pod, self._name, self._file = pod, name, f"/tmp/{name}"
        self._said: list[str] = []
        url = f"http://{HOST}/stream/{name}?rate={RATE}"
        script = f"curl -6sS --no-keepalive '{url}' -o {self._file} 2>&1; echo exit $?"
        self._thread = threading.Thread(
            target=lambda: self._said.append(pod.sh(script, check=False)), daemon=True
        )

    def start(self) -> None:
        """Begin, and wait for the first bytes."""
        self._thread.start()
        self.goes_on()

    def goes_on(self, timeout: float = 60) -> None:
        """Wait until more has arrived than had when this was asked."""
        before = self._received()
        wait_for(f"flow {self._name} to go on", lambda: self._received() > before, timeout)

    def finish(self) -> None:
        """Have the server end it; every byte that it sent must have arrived."""
        assert self._thread.is_alive(), self._said
        sent = self._pod.exec(
            "curl", "-6sS", "-m", "90", f"http://{HOST}/stop/{self._name}"
        ).split()
        self._thread.join(60)
        assert self._said == ["exit 0\n"]
        digest = self._pod.exec("sha256sum", self._file).split()[0]
        assert [str(self._received()), digest] == [sent[1], sent[3]]

    def _received(self) -> int:
        return int(self._pod.sh(f"stat -c %s {self._file} 2>/dev/null || echo 0"))


@contextlib.contextmanager
def live_flow(pod: Pod, name: str) -> Iterator[LiveFlow]:
    """Start one; in the end it must be whole."""
    flow = LiveFlow(pod, name)
    flow.start()
    yield flow
    flow.finish()
