from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat64_dataplane import pref64

# RFC 6052 section 2.4, table 3.
RFC_EXAMPLES = [
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
]


@pytest.mark.parametrize(("prefix", "expected"), RFC_EXAMPLES)
def test_rfc_6052_examples_are_embedded_and_extracted(prefix: str, expected: str) -> None:
    network = IPv6Network(prefix)
    assert pref64.embed(network, IPv4Address("192.0.2.33")) == IPv6Address(expected)
    assert pref64.extract(network, IPv6Address(expected)) == IPv4Address("192.0.2.33")


@given(
    st.sampled_from(RFC_EXAMPLES),
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.integers(0, 2**128 - 1),
)
def test_any_suffix_and_u_octet_are_ignored_when_read(
    example: tuple[str, str], address: IPv4Address, noise: int
) -> None:
    prefix = IPv6Network(example[0])
    embedded = int(pref64.embed(prefix, address))
    assert embedded >> 56 & 0xFF == 0 or prefix.prefixlen == 96
    used = min(prefix.prefixlen + 40, 128) if prefix.prefixlen < 96 else 128
    suffix = noise & (1 << 128 - used) - 1
    u_octet = noise & 0xFF << 56 if prefix.prefixlen < 96 else 0
    assert pref64.extract(prefix, IPv6Address(embedded | suffix | u_octet)) == address


@pytest.mark.parametrize(
    ("prefix", "rule"),
    [
        ("2001:db8::/90", "allowed are /32, /40, /48, /56, /64, /96"),
        ("2001:db8:0:0:100::/96", "bits 64 to 71"),
        ("fe80::/64", "not unicast"),
    ],
)
def test_a_prefix_that_cannot_be_a_pref64_is_refused_with_the_rule(prefix: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        pref64.check(IPv6Network(prefix))
