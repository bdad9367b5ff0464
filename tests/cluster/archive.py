"""What is in an image's archive, as `buildah push docker-archive:` writes it."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path


def identity(archive: Path) -> str:
    """The digest of the image's configuration, which names every layer by its own digest."""
    return str(_manifest(archive)["Config"]).removesuffix(".json")


def read(archive: Path, path: str) -> bytes:
    """A file of the image; of several layers' files the uppermost."""
    with tarfile.open(archive) as whole:
        for layer in reversed(_manifest(archive)["Layers"]):
            opened = whole.extractfile(layer)
            assert opened is not None
            with tarfile.open(fileobj=opened) as files:
                if path in files.getnames() and (found := files.extractfile(path)):
                    return found.read()
    raise FileNotFoundError(f"{archive} has no {path}")


def names(archive: Path) -> set[str]:
    """The paths of all its files."""
    with tarfile.open(archive) as whole:
        found = set()
        for layer in _manifest(archive)["Layers"]:
            with tarfile.open(fileobj=whole.extractfile(layer)) as files:
                found |= set(files.getnames())
        return found


def heads(archive: Path, size: int) -> Iterator[tuple[str, bytes]]:
    """The path and the first bytes of every file, in the order of the layers."""
    with tarfile.open(archive) as whole:
        for layer in _manifest(archive)["Layers"]:
            with tarfile.open(fileobj=whole.extractfile(layer)) as files:
                for member in files:
                    if member.isfile() and (opened := files.extractfile(member)):
                        yield member.name, opened.read(size)


def architecture(archive: Path) -> str:
    """For which processor a runtime takes it to be, as Docker (and Debian) call it."""
    return str(_configuration(archive)["architecture"])


def config(archive: Path) -> dict:  # type: ignore[type-arg]
    """What a runtime is told of it: user, entry point, environment."""
    return dict(_configuration(archive)["config"])


def _configuration(archive: Path) -> dict:  # type: ignore[type-arg]
    with tarfile.open(archive) as whole:
        opened = whole.extractfile(_manifest(archive)["Config"])
        assert opened is not None
        return dict(json.load(opened))


def _manifest(archive: Path) -> dict:  # type: ignore[type-arg]
    with tarfile.open(archive) as whole:
        opened = whole.extractfile("manifest.json")
        assert opened is not None
        return dict(json.load(opened)[0])
