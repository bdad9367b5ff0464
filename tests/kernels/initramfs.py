"""An initramfs, made without root's tools: a cpio archive (newc) with what the boot needs."""

import gzip
import lzma
import shlex
from pathlib import Path

from tests.kernels.kernel import Kernel

_HERE = Path(__file__).parent
# Modules that the kernel needs to mount its root; it loads all others from there.
_BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_BUSYBOX = "bin/busybox"
_TOOLS = ("sh", "insmod", "mkdir", "mount", "poweroff", "switch_root", "umount")
_FOLDERS = ("above", "below", "bin", "dev", "modules", "new", "proc", "tree")
_FILE, _LINK, _FOLDER, _DEVICE = 0o100755, 0o120777, 0o040755, 0o020600


def build(kernel: Kernel, root: Path, job: dict[str, str]) -> bytes:
    """The archive, with busybox from that root; `init.sh` finds `job` as shell variables."""
    archive = _Archive()
    for folder in _FOLDERS:
        archive.add(folder, _FOLDER)
    archive.add("dev/console", _DEVICE, device=(5, 1))
    archive.add("init", _FILE, (_HERE / "init.sh").read_bytes())
    archive.add("bin/busybox", _FILE, (root / _BUSYBOX).read_bytes())
    for tool in _TOOLS:
        archive.add(f"bin/{tool}", _LINK, b"busybox")
    settings = "".join(f"{name}={shlex.quote(value)}\n" for name, value in job.items())
    archive.add("job", _FILE, settings.encode())
    modules = kernel.modules(_BOOT_MODULES)
    for module in modules:
        content = module.read_bytes()
        if module.suffix == ".xz":
            content = lzma.decompress(content)
        archive.add(f"modules/{module.name}", _FILE, content)
    archive.add("modules/order", _FILE, "".join(f"{m.name}\n" for m in modules).encode())
    return archive.finish()


class _Archive:
    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def add(
        self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device, device of a node, name, no checksum
        fields = [self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0]
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts += [_padded(header + path), _padded(content)]

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return gzip.compress(b"".join(self._parts), compresslevel=1)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
