"""What can go wrong between us and the kernel's eBPF."""

from __future__ import annotations

import errno
import os

from nat64_dataplane.errors import DataplaneError

LOG_END = 4096
"""Characters of a verifier log that an error carries: the reason is at its end."""


class BpfError(DataplaneError):
    """A call failed; `errno` says how, the text also says at what."""

    def __init__(self, doing: str, number: int, detail: str = "") -> None:
        self.doing = doing
        self.errno = number
        name = errno.errorcode.get(number, str(number))
        text = f"{doing}: {os.strerror(number)} ({name})"
        if number == errno.EPERM:
            text += "; eBPF needs CAP_BPF and CAP_NET_ADMIN, or root"
        super().__init__(f"{text}\n{detail}" if detail else text)


class VerifierError(BpfError):
    """The kernel refused a program. `log` is all that the verifier said."""

    def __init__(self, program: str, number: int, log: str) -> None:
        self.program = program
        self.log = log
        super().__init__(f"the kernel refused program {program}", number, log[-LOG_END:].strip())


class PinMismatchError(DataplaneError):
    """A pinned map isn't the one that these programs need; every difference is named."""

    def __init__(self, path: str, differences: list[str]) -> None:
        self.path = path
        self.differences = differences
        super().__init__(f"pinned map {path} doesn't fit: {'; '.join(differences)}")
