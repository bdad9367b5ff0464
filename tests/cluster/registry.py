"""Images that the internet's HTTP server serves to container runtimes, over plain HTTP.

What a registry answers to a pull (OCI distribution specification, sections "Pulling manifests" and
"Pulling blobs") is a set of files, and `internet/server.py` serves those under `/v2/`.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

from tests.cluster.paths import STATE

FOLDER = STATE / "internet" / "registry"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def publish(archive: Path, name: str, tag: str) -> None:
    """Serve the image of an archive, as `docker save` makes it, under `NAME:TAG`."""
    with tarfile.open(archive) as tar:

        def read(member: str) -> bytes:
            file = tar.extractfile(member)
            assert file, member
            return file.read()

        [image] = json.loads(read("manifest.json"))
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _blob(name, read(image["Config"]), _CONFIG),
            "layers": [_blob(name, read(layer), _LAYER) for layer in image["Layers"]],
        }
    content = json.dumps(manifest).encode()
    for reference in (tag, _digest(content)):
        _write(name, "manifests", reference, content)


def _blob(name: str, content: bytes, kind: str) -> dict[str, Any]:
    digest = _digest(content)
    _write(name, "blobs", digest, content)
    return {"mediaType": kind, "digest": digest, "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _write(name: str, kind: str, reference: str, content: bytes) -> None:
    folder = FOLDER / name / kind
    folder.mkdir(parents=True, exist_ok=True)
    (folder / reference).write_bytes(content)
