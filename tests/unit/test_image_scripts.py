"""What the images are built with refuses what it can't build for."""

from __future__ import annotations

import subprocess
from pathlib import Path

REPO = Path(__file__).parents[2]


def test_wheels_for_an_architecture_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [REPO / "scripts/image-wheels", tmp_path, "riscv64", REPO / "requirements/dataplane.lock"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "the architecture 'riscv64' is neither amd64 nor arm64" in done.stderr
    assert not list(tmp_path.iterdir())
