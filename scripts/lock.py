"""Writes the lock files: versions and hashes of everything that pip installs.

    python -m scripts.lock             # what isn't pinned yet, or no longer fits
    python -m scripts.lock --upgrade   # the newest of everything

`requirements.lock` is for the tree's virtual environment; `requirements/` is for the images: what
they are built with, and what is in each. A version is the same in all.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
WHOLE = REPO / "requirements.lock"
FOLDER = REPO / "requirements"
# What the bills of materials are made with.
_BUILD_TOOLS = ["cyclonedx-bom>=7"]


def main(*flags: str) -> None:
    """Write all of them."""
    pyproject = tomllib.loads((REPO / "pyproject.toml").read_text())
    project, build = pyproject["project"], pyproject["build-system"]["requires"]
    common, extras = project["dependencies"], project["optional-dependencies"]
    # An editable install builds with hatchling and editables.
    everything = [*common, *chain(*extras.values()), *build, "editables"]
    compile_(everything, WHOLE, *flags)
    compile_([*build, *_BUILD_TOOLS], FOLDER / "build.lock", f"--constraint={WHOLE}")
    for name in ("operator", "dataplane"):
        compile_([*common, *extras[name]], FOLDER / f"{name}.lock", f"--constraint={WHOLE}")


def compile_(requirements: list[str], target: Path, *flags: str) -> None:
    """Have uv resolve and write one file."""
    argv = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--generate-hashes", *flags]
    # For the oldest Python that is supported; hashes are those of every platform's files.
    argv += [
        "--python-version=3.11",
        "--no-annotate",
        "--no-header",
        f"--output-file={target}",
        "-",
    ]
    subprocess.run(argv, input="\n".join(requirements), text=True, check=True, cwd=REPO)


if __name__ == "__main__":
    main(*sys.argv[1:])
