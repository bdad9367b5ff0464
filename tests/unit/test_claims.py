import pytest

from nat64_dataplane import config
from nat64_dataplane.claims import Claim, Clash, clash_on_a_node

WITH_CLAT = "name: a\nprefix: 64:ff9b::/96\nclat: {prefix: 64:ff9b:1:c1a7::/96}"
OTHERS_PORTS = "pools: [{ports: 50000-50099}]"


@pytest.mark.parametrize(
    ("mine", "theirs", "field", "what"),
    [
        ("prefix: 2001:db8::/96", "prefix: 2001:db8::/64", "prefix", "2001:db8::/64"),
        (
            "prefix: 2001:db8::/96\nclat: {prefix: 2001:db8:1::/96}",
            "prefix: 2001:db8:1::/64",
            "clat.prefix",
            "2001:db8:1::/64",
        ),
        (
            "prefix: 2001:db8:1::/64",
            "prefix: 2001:db8::/96\nclat: {prefix: 2001:db8:1::/96}",
            "prefix",
            "2001:db8:1::/96",
        ),
    ],
)
def test_every_prefix_of_a_translator_is_compared_with_every_one_of_the_other(
    mine: str, theirs: str, field: str, what: str
) -> None:
    ours = Claim.of(config.parse(f"name: a\n{mine}"))
    others = Claim.of(config.parse(f"name: b\n{theirs}\n{OTHERS_PORTS}"))
    assert clash_on_a_node(ours, others) == Clash("Prefix", field, what)


def test_one_translator_of_a_node_has_a_clat_in_the_pods() -> None:
    """A pod can have one, whatever the prefixes are."""
    others = config.parse(
        f"name: b\nprefix: 2001:db8::/96\nclat: {{prefix: 2001:db8:1::/96}}\n{OTHERS_PORTS}"
    )
    found = clash_on_a_node(Claim.of(config.parse(WITH_CLAT)), Claim.of(others))
    assert found is not None
    assert (found.kind, found.field) == ("Clat", "clat")
    plain = config.parse(f"name: b\nprefix: 2001:db8::/96\n{OTHERS_PORTS}")
    assert clash_on_a_node(Claim.of(config.parse(WITH_CLAT)), Claim.of(plain)) is None
