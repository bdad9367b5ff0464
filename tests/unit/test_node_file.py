"""The node file: what it may hold, and what becomes of a config on one node."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from nat64_dataplane import config, node_file
from nat64_dataplane.errors import ConfigError
from nat64_dataplane.node_file import NodeEntry, NodeFile, resolve
from nat64_dataplane.translator.config_source import ConfigSource

SHARED = config.parse("""
name: a
pools:
- {addresses: 192.0.2.0/24, addressesPerNode: 2, ports: 1024-65535}
- {ports: 62000-63000}
staticMappings:
- {protocol: tcp, client: "2001:db8::1", clientPort: 80, address: 192.0.2.8, port: 80}
- {protocol: tcp, client: "2001:db8::1", clientPort: 80, address: 198.51.100.9, port: 80}
""")
FILE = NodeFile(
    pod_ranges=(IPv6Network("2001:db8:1::/48"),),
    nodes={
        "one": NodeEntry(allocated=(IPv4Network("192.0.2.8/31"),)),
        "two": NodeEntry(allocated=(IPv4Network("192.0.2.10"), IPv4Network("203.0.113.1"))),
        "three": NodeEntry(),
    },
)


def pools_of(node: str) -> list[tuple[str, str]]:
    return [(p.addresses, p.ports) for p in resolve(SHARED, FILE, node).pools]


def test_a_node_has_what_is_allocated_to_it_of_the_config_it_runs() -> None:
    assert pools_of("one") == [("192.0.2.8/31", "1024-65535"), ("node", "62000-63000")]
    assert pools_of("two") == [("192.0.2.10/32", "1024-65535"), ("node", "62000-63000")]
    assert pools_of("three") == pools_of("unknown") == [("node", "62000-63000")]


def test_a_static_mapping_is_on_the_node_that_has_its_address() -> None:
    assert len(resolve(SHARED, FILE, "one").static_mappings) == 2
    assert len(resolve(SHARED, FILE, "two").static_mappings) == 1


def test_pod_ranges_hold_where_the_file_knows_the_node_and_no_sources_are_listed() -> None:
    assert resolve(SHARED, FILE, "three").policy.pod_ranges == FILE.pod_ranges
    assert resolve(SHARED, FILE, "unknown").policy.pod_ranges == ()
    listed = config.parse("name: a\npolicy: {allowedSources: ['2001:db8::/32']}")
    assert resolve(listed, FILE, "one") == listed


def test_what_is_rendered_is_read_back() -> None:
    assert node_file.parse(node_file.render(FILE)) == FILE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ('{"version": 2}', "version 2 is not known"),
        ('{"podRanges": ["10.0.0.0/8"]}', r"podRanges\[0\]: .*10.0.0.0/8"),
        ('{"podRanges": [7]}', r"podRanges\[0\]: 7"),
        (
            '{"nodes": {"a": {"allocated": ["192.0.2.1/24"]}}}',
            r"nodes.a: allocated\[0\]: .*192.0.2.1/24",
        ),
        ('{"nodes": {"a": {"more": 1}}}', "nodes.a: .*unknown field `more`"),
        ('{"nodes": {"' + "x" * node_file.MAX_BYTES + '": {}}}', "at most 900000"),
    ],
)
def test_a_bad_file_is_refused_with_field_value_and_rule(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        node_file.parse(text.encode())


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ("{addressesPerNode: 1}", "addressesPerNode 1 needs a range"),
        ("{addresses: 192.0.2.0/31, addressesPerNode: 3}", "3 is more than 192.0.2.0/31 has"),
        ("{addresses: 10.0.0.0/15, addressesPerNode: 1}", "at most a /16"),
        ("{addresses: 10.0.0.0/16}", "at most a /24"),
        ("{addresses: 192.0.2.0/24, addressesPerNode: 65}", "addressesPerNode: 65"),
    ],
)
def test_a_bad_share_is_refused(pool: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config.parse(f"name: a\npools: [{pool}]")


def test_what_is_bad_changes_nothing_and_hides_nothing_of_the_other_file(tmp_path: Path) -> None:
    path, nodes = tmp_path / "config.yaml", tmp_path / "nodes.json"
    path.write_bytes(config.render(SHARED))
    source = ConfigSource(path, nodes, "one")
    assert "can't read" in source.error, "it may come later"
    assert [p.addresses for p in source.current.pools] == ["node"]
    nodes.write_bytes(node_file.render(FILE))
    assert source.changed()
    assert not source.error
    assert [p.addresses for p in source.current.pools] == ["192.0.2.8/31", "node"]
    assert not source.changed()
    nodes.write_text("{}x")
    path.write_text("name: a\npools: [{addresses: 192.0.2.0/24, addressesPerNode: 2}]")
    assert source.changed()
    assert "nodes.json: not JSON" in source.error
    assert [p.ports for p in source.current.pools] == ["61001-65535"], "the config has changed"
    path.write_text("name: a\nbad: 1")
    nodes.write_bytes(node_file.render(FILE))
    assert source.changed()
    assert "unknown field `bad`" in source.error
    assert [p.addresses for p in source.current.pools] == ["192.0.2.8/31"]


def test_what_a_kubelet_has_updated_is_noticed_without_reading_it(tmp_path: Path) -> None:
    """It writes a new folder, and has a link lead there."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "nodes.json").write_bytes(node_file.render(FILE))
    data = tmp_path / "..data"
    data.symlink_to("one")
    path = tmp_path / "config.yaml"
    path.write_bytes(config.render(SHARED))
    source = ConfigSource(path, data / "nodes.json", "one")
    assert source.touched(), "nothing was known"
    assert not source.touched()
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(data)
    assert source.touched()
    assert not source.touched()
    (tmp_path / "two" / "nodes.json").unlink()
    assert source.touched(), "it is gone"
    assert not source.touched()
