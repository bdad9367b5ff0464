"""Writes an image's bill of materials, as CycloneDX: `sbom NAME VERSION PYTHON ROOT... > FILE`.

The Python packages are those of the interpreter's environment, as cyclonedx-py lists them; Debian's
are those that image-root unpacked into the ROOTs. The same input gives the same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from email.parser import Parser
from pathlib import Path
from typing import Any
from urllib.parse import quote


def main(name: str, version: str, python: str, *roots: str) -> None:
    """Print it."""
    tool = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    done = subprocess.run(
        [*tool, "--spec-version", "1.6", python], check=True, stdout=subprocess.PIPE, text=True
    )
    bill = json.loads(done.stdout)
    bill["metadata"]["component"] = {
        "type": "container",
        "bom-ref": name,
        "name": name,
        "version": version,
    }
    fields = [fields for root in roots for fields in installed(Path(root))]
    bill["components"] += [debian(package) for package in fields]
    # cyclonedx-py says what depends on what among Python packages only.
    bill["dependencies"].append(
        {"ref": name, "dependsOn": [c["bom-ref"] for c in bill["components"]]}
    )
    json.dump(bill, sys.stdout, indent=1)
    print()


def installed(root: Path) -> list[dict[str, str]]:
    """The control fields of the packages in a root."""
    files = sorted((root / "var/lib/dpkg/status.d").iterdir())
    return [dict(Parser().parsestr(file.read_text())) for file in files]


def debian(package: dict[str, str]) -> dict[str, Any]:
    """A package as CycloneDX names it."""
    name, version, arch = (package[field] for field in ("Package", "Version", "Architecture"))
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={arch}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    main(*sys.argv[1:])
