"""What docs/install.md says to do where no operator is left, done as it is written there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.cluster import images
from tests.cluster.paths import REPO
from tests.cluster.product import KINDS, NAMESPACE, RELEASE, Product
from tests.cluster.run import run, wait_for
from tests.e2e.test_product import (
    NODES,
    assert_nodes_are_clean,
    corefile,
    node_state,
    original_corefile,
)

pytestmark = pytest.mark.cluster


def commands(product: Product, folder: Path) -> str:
    """The section's shell blocks, with this cluster's kubectl and image."""
    text = (REPO / "docs" / "install.md").read_text()
    section = text.partition("\n### By hand\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    [image] = [image.name for image in images.PRODUCT if image.target == "dataplane"]
    words = shlex.join(product.cluster.client("kubectl"))
    head = f'set -e\ncd {shlex.quote(str(folder))}\nkubectl() {{ {words} "$@"; }}\n'
    script = head + "".join(blocks)
    assert "DATAPLANE_IMAGE" in script
    return script.replace("DATAPLANE_IMAGE", image)


def test_all_is_removed_by_hand_where_the_operator_was_removed_first(
    product: Product, tmp_path: Path
) -> None:
    cluster = product.cluster
    cluster.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--no-hooks", "--wait")
    try:
        for node in NODES:
            assert "nat64-default" in node_state(cluster, node), "the nodes still translate"
        run(["bash", "-c", commands(product, tmp_path)])
        assert corefile(cluster) == original_corefile()
        for kind in KINDS:
            assert cluster.kubectl("get", kind, "-o", "name").strip() == ""
        assert_nodes_are_clean(cluster)
        wait_for("all pods to be gone", lambda: product.pods() == [], timeout=90)
    finally:
        product.install()
        product.apply()
        product.wait_ready(timeout=240)
