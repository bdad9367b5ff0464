"""`kubectl nat64 bundle`, version and completion: what they say, and what they leave out."""

from __future__ import annotations

import argparse
import re
import stat
import tarfile
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nat64_operator.kubectl import cli, completion, redact, version
from nat64_operator.kubectl.bundle import Bundle
from nat64_operator.kubectl.exec_output import ClusterError
from nat64_operator.kubectl.redact import HIDDEN, Redactor, clean


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("client fd00::5 asks", "client <address-1> asks"),
        ("[fd00::5]:4000 -> 203.0.113.9:80.", "[<address-1>]:4000 -> <address-2>:80."),
        ("fd00::5 = fd00:0::5; 203.0.113.9.", "<address-1> = <address-1>; <address-2>."),
        ("at 2026-11-29 16:01:06 of 10.0.0.0/8", "at 2026-11-29 16:01:06 of 10.0.0.0/8"),
        ("host fd00::5/128 in fd00::/64", "host <address-1>/128 in fd00::/64"),
        ("2001:db8:1::11 ::1, fe80::64, [::]:53", "2001:db8:1::11 ::1, fe80::64, [::]:53"),
        ('1 "AAAA IN bank.example. udp 40" bank', '1 "AAAA IN <name-1> udp 40" bank'),
        ("64:ff9b::192.0.2.200 port", "<address-1> port"),
        ("version 1.2.3 sha256:abcd", "version 1.2.3 sha256:abcd"),
        ("peer ::ffff:198.51.100.7]", "peer <address-1>]"),
    ],
)
def test_addresses_that_the_configuration_does_not_name_are_replaced(text: str, shown: str) -> None:
    assert Redactor(["node 2001:db8:1::11"]).text(text) == shown


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), min_size=1, max_size=5),
    st.sampled_from(["{}", "[{}]:53", "from {}, to", '"{}"', "s={} d", "({})", "{}#53", "ip: {}."]),
)
def test_no_address_stays(found: list[IPv4Address | IPv6Address], form: str) -> None:
    text = "\n".join(form.format(address) for address in found)
    said = Redactor([]).text(text)
    for address in found:
        special = (
            address.is_loopback
            or address.is_unspecified
            or address.is_link_local
            or address.is_multicast
        )
        assert special or not re.search(rf"(?<![\w:.]){re.escape(str(address))}(?![\w:])", said)


def test_values_of_the_environment_and_bookkeeping_are_left_out() -> None:
    env = [
        {"name": "NAT64_HEALTH", "value": "[::]:8080"},
        {"name": "HTTPS_PROXY", "value": "http://user:secret@proxy"},
        {"name": "NAT64_NAMESPACE", "valueFrom": {"fieldRef": {}}},
    ]
    metadata = {"annotations": {redact.LAST_APPLIED: "secret", "a": "b"}, "managedFields": [{}]}
    obj = {"metadata": metadata, "spec": {"template": {"spec": {"containers": [{"env": env}]}}}}
    found = clean(obj)
    assert "secret" not in str(found)
    assert found["metadata"] == {"annotations": {"a": "b"}}
    [container] = found["spec"]["template"]["spec"]["containers"]
    assert [entry.get("value") for entry in container["env"]] == ["[::]:8080", HIDDEN, None]


def test_an_archive_is_private_and_says_what_is_missing(tmp_path: Path) -> None:
    made = Bundle()
    made.add("objects/a.yaml", lambda: "node 2001:db8::11\n", known=True)
    made.add("logs/a.log", lambda: "2001:db8::11 serves fd00::5\n")

    def forbidden() -> str:
        raise ClusterError("pods is forbidden", 403)

    made.add("objects/pods.yaml", forbidden)
    for with_addresses, line in ((False, "<address-1>"), (True, "fd00::5")):
        target = tmp_path / "b.tar.gz"
        made.write(target, with_addresses=with_addresses)
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        with tarfile.open(target) as tar:
            texts = {m.name: tar.extractfile(m).read().decode() for m in tar.getmembers()}  # type: ignore[union-attr]
        assert texts["b/logs/a.log"] == f"2001:db8::11 serves {line}\n"
        assert texts["b/MISSING"] == "objects/pods.yaml: pods is forbidden\n"
    with pytest.raises(ClusterError, match="No such file"):
        made.write(tmp_path / "none" / "b.tar.gz", with_addresses=False)


def test_version_says_where_the_two_differ() -> None:
    spec = {"template": {"spec": {"containers": [{"image": "r/operator:9"}]}}}
    labels = {"app.kubernetes.io/version": "9.9.9"}
    operator = {"metadata": {"name": "nat64-operator", "labels": labels}, "spec": spec}
    found = version.build([operator], [])
    assert found["operator"] == [
        {"name": "nat64-operator", "version": "9.9.9", "image": "r/operator:9"}
    ]
    assert "use the same version of both" in version.render(found)
    labels["app.kubernetes.io/version"] = version.own()
    assert "same version" not in version.render(version.build([operator], []))


def candidates(*words: str) -> list[str]:
    parser: argparse.ArgumentParser = cli.parser()
    *found, directive = completion.complete(parser, words)
    assert directive == completion.NO_FILES
    return [line.partition("\t")[0] for line in found]


def test_completion_offers_commands_options_and_values() -> None:
    assert {"status", "test", "bundle", "trace"} <= set(candidates(""))
    assert candidates("s") == ["status", "sessions"]
    assert "--disruption" in candidates("test", "--d")
    assert candidates("status", "--output", "j") == ["json"]
    assert candidates("trace", "pod") == []


def test_completion_and_its_shim_need_no_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["__complete", "ver"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("version\t")
    assert cli.main(["completion"]) == 0
    assert "kubectl nat64 __complete" in capsys.readouterr().out
