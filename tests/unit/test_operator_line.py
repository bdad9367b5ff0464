"""The edit of the one `forward .` line, on Corefiles as shipped and as people have them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat64_dataplane import corefile
from nat64_operator.api.policy import FailMode
from nat64_operator.coredns import forward_line
from nat64_operator.errors import UnsupportedCorefileError

SAMPLES = {path.name: path.read_text() for path in (Path(__file__).parent / "corefiles").iterdir()}
ADDRESS = "fd00:10:96::64"
OWN = "[fd00:10:96::64]:53"

each_sample = pytest.mark.parametrize("name", sorted(SAMPLES))
each_mode = pytest.mark.parametrize("mode", FailMode)


def edit(text: str, mode: FailMode = FailMode.FALLBACK) -> str:
    found = forward_line.find(text)
    return found.replaced(forward_line.wired(found, ADDRESS, mode))


@each_sample
@each_mode
def test_the_sidecars_become_the_first_upstream(name: str, mode: FailMode) -> None:
    before, after = forward_line.find(SAMPLES[name]), forward_line.find(edit(SAMPLES[name], mode))
    rest = before.upstreams if mode is FailMode.FALLBACK else ()
    assert after.upstreams == (OWN, *rest)


@each_sample
@each_mode
def test_every_byte_outside_the_line_stays(name: str, mode: FailMode) -> None:
    text = SAMPLES[name]
    stanza = forward_line.find(text).stanza
    edited = edit(text, mode)
    assert edited.startswith(text[: stanza.start])
    assert edited.endswith(text[stanza.end :])


@each_sample
def test_several_upstreams_are_asked_in_order(name: str) -> None:
    stanza = forward_line.find(edit(SAMPLES[name])).stanza
    assert [option.values for option in stanza.options("policy")] == [("sequential",)]


@each_sample
@each_mode
def test_the_lines_own_options_stay(name: str, mode: FailMode) -> None:
    def options(text: str) -> list[tuple[str, tuple[str, ...]]]:
        body = forward_line.find(text).stanza.body or ()
        return [(o.name.text, o.values) for o in body if o.name.text != "policy"]

    assert options(edit(SAMPLES[name], mode)) == options(SAMPLES[name])


@each_sample
@each_mode
def test_putting_the_original_line_back_gives_the_original_file(name: str, mode: FailMode) -> None:
    original = forward_line.find(SAMPLES[name])
    assert forward_line.find(edit(SAMPLES[name], mode)).replaced(original.text) == SAMPLES[name]


@each_sample
def test_editing_twice_changes_nothing_more(name: str) -> None:
    once = edit(SAMPLES[name])
    assert forward_line.find(edit(once)).tokens == forward_line.find(once).tokens


def test_how_it_looks_on_kubeadm() -> None:
    before, after = SAMPLES["kubeadm-1.33"].splitlines(), edit(SAMPLES["kubeadm-1.33"]).splitlines()
    assert [row for row in after if row not in before] == [
        f"    forward . {OWN} /etc/resolv.conf {{",
        "       policy sequential",
    ]
    assert [row for row in before if row not in after] == ["    forward . /etc/resolv.conf {"]


def test_a_line_without_a_block_gets_one() -> None:
    block = f"    forward . {OWN} /etc/resolv.conf {{\n        policy sequential\n    }}\n"
    assert block + "    cache 30\n" in edit(SAMPLES["kubeadm-1.13"])


def test_comments_inside_the_line_stay() -> None:
    edited = edit(SAMPLES["commented"])
    assert f"forward . {OWN} 2001:db8::53 192.0.2.53:5353 tls://192.0.2.54 {{ # public\n" in edited
    assert "\t\tpolicy sequential # spread\n\t\ttls_servername dns.example\n" in edited


def test_no_more_upstreams_than_coredns_takes() -> None:
    many = " ".join(f"192.0.2.{n}" for n in range(1, 16))
    after = forward_line.find(edit(f".:53 {{\n    forward . {many}\n}}\n"))
    assert len(after.upstreams) == forward_line.MAX_UPSTREAMS
    assert after.upstreams[0] == OWN


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no server block"),
        ("example.org:53 {\n    forward . 192.0.2.1\n}\n", "no server block for `.`, so"),
        (".:53 {\n    errors\n}\n", "no `forward .` line; use the mode Manual"),
        (".:53 {\n    import custom/*.override\n}\n", "may be in what it imports: custom"),
        (
            ".:53 {\n    forward . 192.0.2.1\n    forward . 192.0.2.2\n}\n",
            "several `forward .` lines (2, 3)",
        ),
        (".:53 {\n    forward . 192.0.2.1\n", "can't be read: Corefile:"),
        ('.:53 {\n    log "\n}\n', "can't be read: Corefile:2"),
    ],
)
def test_a_corefile_without_one_clear_line_is_refused(text: str, says: str) -> None:
    with pytest.raises(UnsupportedCorefileError) as caught:
        forward_line.find(text)
    assert says in str(caught.value)


words = st.sampled_from(["a", "b1", '"q q"', "10", "/x", "{$ENV}", "tls://192.0.2.1"])
options = st.lists(
    st.tuples(st.sampled_from(["max_fails", "expire", "policy", "except", "force_tcp"]), words),
    max_size=4,
)


@given(
    upstreams=st.lists(
        st.sampled_from(["/etc/resolv.conf", "192.0.2.1", "[2001:db8::1]:53", "tls://192.0.2.9"]),
        min_size=1,
        max_size=3,
        unique=True,
    ),
    body=st.none() | options,
    indent=st.sampled_from(["", "  ", "\t", "    "]),
    before=st.sampled_from(["", "    errors\n", "# note\n", "\n"]),
    comment=st.sampled_from(["", " # { forward . }"]),
    mode=st.sampled_from(FailMode),
)
def test_any_line_can_be_edited_and_put_back(
    upstreams: list[str],
    body: list[tuple[str, str]] | None,
    indent: str,
    before: str,
    comment: str,
    mode: FailMode,
) -> None:
    head = f"{indent}forward . {' '.join(upstreams)}"
    if body is not None:
        inner = "".join(f"{indent}  {name} {word}{comment}\n" for name, word in body)
        head += f" {{{comment}\n{inner}{indent}}}"
    text = f".:53 {{\n{before}{head}{comment}\n    cache 30\n}}\n"
    edited = edit(text, mode)
    found = forward_line.find(edited)
    assert found.upstreams[0] == OWN
    outside = found.outside()
    assert outside == forward_line.find(text).outside()
    assert found.replaced(forward_line.find(text).text) == text
    corefile.parse(edited)
