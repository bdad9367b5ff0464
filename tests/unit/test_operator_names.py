"""No two objects that the operator makes share a name, whatever gateways and policies are named."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from nat64_operator.render import names

WORDS = ["foo", "leaving", "wiring", "dns64", "dns", "nodes", "clients", "a0b1c2d3e4f5"]
GATEWAYS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("-".join)
POLICIES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).flatmap(
    lambda words: st.sampled_from(["-".join(words), ".".join(words)])
)


def of_gateway(name: str) -> list[tuple[str, str]]:
    return [
        ("DaemonSet", names.daemon_set(name)),
        ("DaemonSet", names.leaving(name)),
        ("Service", names.dns_service(name)),
        ("ConfigMap", names.translator_config(name, "a0b1c2d3e4f5")),
        ("ConfigMap", names.sidecar_config(name, "image")),
        ("ConfigMap", names.nodes_record(name)),
    ]


@given(
    gateways=st.sets(GATEWAYS, min_size=1, max_size=5),
    policies=st.sets(POLICIES, min_size=1, max_size=5),
)
def test_names_never_meet(gateways: set[str], policies: set[str]) -> None:
    made = [
        ("ConfigMap", names.CLIENTS),
        *itertools.chain.from_iterable(map(of_gateway, sorted(gateways))),
        *(("ConfigMap", names.wiring_record(policy)) for policy in sorted(policies)),
    ]
    assert len(made) == len(set(made)), sorted(n for n in made if made.count(n) > 1)


def test_what_met_once() -> None:
    assert names.leaving("foo") != names.daemon_set("foo-leaving")
    assert names.wiring_record("dns64") != names.sidecar_config("wiring", "image")
