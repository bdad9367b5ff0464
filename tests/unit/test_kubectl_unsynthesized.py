"""`kubectl nat64 doctor` names what no mode but another one reaches."""

import pytest

from nat64_operator.api.policy import Mode
from nat64_operator.kubectl.doctor_coredns import unsynthesized

COREFILE = """\
corp.example:53 lab.example {
    forward . 192.0.2.53
}
2.0.192.in-addr.arpa 10.0.0.0/8 {
    forward . 192.0.2.53
}
static.example {
    file zone
}
.:53 {
    hosts {
        192.0.2.7 v4.example both.example
        2001:db8::7 both.example
        ttl 60
        fallthrough
    }
    forward stub.example 192.0.2.53
    forward . /etc/resolv.conf
}
"""


def said(mode: Mode, text: str = COREFILE) -> list[str]:
    return [step.text for step in unsynthesized(text, mode, "kube-system/coredns")]


@pytest.mark.parametrize("mode", [Mode.FORWARD, Mode.IMPORT, Mode.MANUAL])
def test_stub_zones_and_hosts_with_ipv4_only_are_named_with_their_lines(mode: Mode) -> None:
    found = said(mode)
    assert [text.partition(", so")[0] for text in found] == [
        "kube-system/coredns line 1: names in corp.example:53 are forwarded elsewhere",
        "kube-system/coredns line 1: names in lab.example are forwarded elsewhere",
        "kube-system/coredns line 17: names in stub.example are forwarded elsewhere",
        "kube-system/coredns line 12: v4.example has an IPv4 address in `hosts` only",
    ]


def test_plugin_reaches_all_that_the_block_for_the_root_answers() -> None:
    assert len(said(Mode.PLUGIN)) == 2


def test_a_corefile_that_can_not_be_read_has_nothing_to_say() -> None:
    assert said(Mode.FORWARD, ".:53 {") == []
