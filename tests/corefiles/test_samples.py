"""Corefiles of distributions, and what people make of them, through every mode."""

import pytest

from nat64_dataplane import corefile
from nat64_operator.api.policy import FailMode, Forward, Mode
from nat64_operator.coredns import corefile_edits, forward_line
from nat64_operator.coredns.carried_upstreams import carried
from tests.corefiles import expectations
from tests.corefiles.driver import OWN, WAYS, Way, names, read, run

NAMES = names()
each_way = pytest.mark.parametrize("way", WAYS, ids=str)
each_sample = pytest.mark.parametrize("name", NAMES)


def refusals(name: str, way: Way) -> tuple[str, ...] | None:
    """What a refusal says; None where it is wired."""
    found = expectations.FORWARD.get(name)
    if way.mode is Mode.PLUGIN:
        return (found or ()) if name in expectations.PLUGIN_TOO else None
    if way.mode is Mode.IMPORT and found is None and name not in expectations.IMPORTS:
        return ("imports no `*.override` files", "mode Forward")
    if way.mode is Mode.IMPORT and found is not None:
        return ()
    return found


def test_there_are_enough_of_them() -> None:
    assert len(NAMES) >= 100
    assert set(expectations.FORWARD) < set(NAMES)


@each_way
@each_sample
def test_a_sample_is_wired_and_restored_to_the_byte_or_refused_with_line_and_remedy(
    name: str, way: Way
) -> None:
    text = read(name)
    says = refusals(name, way)
    found = run(text, way)
    if says is not None:
        assert found.texts == ()
        for words in says:
            assert words in found.refusal
        assert found.refusal
        return
    assert found.refusal == ""
    assert found.texts
    assert found.warning == ""
    assert found.restored == ("" if way.mode is Mode.IMPORT else text)


@each_sample
@pytest.mark.parametrize("way", WAYS[:3], ids=str)
def test_every_byte_outside_our_part_stays(name: str, way: Way) -> None:
    text = read(name)
    for written in run(text, way).texts:
        site = corefile_edits.find(way.mode, text)
        assert corefile_edits.find(way.mode, written).outside() == site.outside()
        if way.mode is Mode.FORWARD:
            stanza = forward_line.find(text).stanza
            assert written.startswith(text[: stanza.start])
            assert written.endswith(text[stanza.end :])
        newlines = {row[-1:] for row in text.split("\n")[:-1]}
        assert {row[-1:] == "\r" for row in written.split("\n")[:-1]} <= {
            row == "\r" for row in newlines
        }


@each_sample
def test_the_sidecars_come_first_and_the_originals_stay_behind_them(name: str) -> None:
    text = read(name)
    found = run(text, Way(Mode.FORWARD))
    for written in found.texts:
        before, after = forward_line.find(text).upstreams, forward_line.find(written)
        assert after.upstreams == (OWN, *before)[: forward_line.MAX_UPSTREAMS]
        policies = [o.values for o in after.stanza.options("policy")]
        assert len(policies) <= 1
    failing = run(text, Way(Mode.FORWARD, FailMode.FAIL)).texts
    assert [forward_line.find(written).upstreams[1:] == () for written in failing] in (
        [],
        [False, True],
    )


@pytest.mark.parametrize(
    ("name", "upstreams", "options"),
    [
        ("kubeadm-1.33", ("/etc/resolv.conf",), {}),
        ("force-tcp", ("192.0.2.53",), {"force_tcp": True}),
        ("linode", ("192.0.2.11", "192.0.2.12"), {"policy": "ROUND_ROBIN"}),
        ("openshift", ("/etc/resolv.conf",), {"policy": "SEQUENTIAL"}),
        ("dot", ("tls://192.0.2.53%dns.example", "tls://[2001:db8::53%dns.example]:853"), {}),
        ("dot-names", ("tls://192.0.2.53%dns.example", "tls://192.0.2.54%dns2.example"), {}),
        ("dns-scheme", ("dns://192.0.2.53", "dns://[2001:db8::53]:5353"), {}),
        ("options", ("192.0.2.53", "192.0.2.54"), {"max_fails": 3, "policy": "SEQUENTIAL"}),
    ],
)
def test_the_sidecars_ask_what_coredns_asked_and_as_it_did(
    name: str, upstreams: tuple[str, ...], options: dict[str, object]
) -> None:
    found = carried(forward_line.find(read(name)), OWN, Forward())
    assert found.names == upstreams
    expected = {"policy": "RANDOM", "force_tcp": False, "max_fails": 2, **options}
    said = {option: getattr(found.forward, option) for option in expected}
    assert {**said, "policy": said["policy"].name} == expected


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"not-a-corefile"}))
def test_our_own_reader_takes_each(name: str) -> None:
    assert corefile.parse(read(name)).text == read(name)
