"""Corefiles that are bent at random: nothing raises, and nothing is written that isn't ours."""

import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nat64_operator.api.policy import Mode
from nat64_operator.coredns import corefile_edits
from tests.corefiles.driver import WAYS, Way, names, read, run

SAMPLES = {name: read(name) for name in names()}
ODD_LINES = (
    "forward . 192.0.2.99",
    "forward . 192.0.2.99 {",
    "forward .",
    "forward",
    "forward corp.example 192.0.2.99",
    "forward . {$A} [::1]:x",
    "proxy . 192.0.2.1",
    "dns64",
    "dns64 {",
    "view x {",
    "template IN AAAA",
    "template",
    "template IN AAAA . { match ( }",
    "rewrite type AAAA A",
    "rewrite type AAAA",
    "acl { filter type AAAA }",
    "acl",
    "import",
    "import a b",
    "import x/*.override",
    "import {$X}",
    "reload 0s",
    "}",
    "{",
    ".:53 {",
    "(snippet) {",
    "import snippet",
    '"',
    '"forward" . "192.0.2.9"',
    "# forward . x",
    ".:99999999999999999999999 {",
    "[::1]:53 {",
    ", {",
    "\\",
    "a#b {",
    "\u2028forward . 192.0.2.9",
)
WORDS = (".", "{", "}", "forward", "policy", "random", "sequential", '"', "#", "\r\n", "\n", "\t")


def bend(text: str, rng: random.Random) -> str:
    rows = text.split("\n")
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(rows) + 1)
        match rng.randrange(8):
            case 0:
                rows.insert(at, rng.choice(ODD_LINES))
            case 1 if rows:
                del rows[at % len(rows)]
            case 2 if rows:
                rows.insert(at, rows[rng.randrange(len(rows))])
            case 3 if rows:
                row = rows[at % len(rows)]
                cut = rng.randrange(len(row) + 1)
                rows[at % len(rows)] = row[:cut] + rng.choice(WORDS) + row[cut:]
            case 4 if rows:
                rows[at % len(rows)] = rows[at % len(rows)] + "\r"
            case 5:
                other = SAMPLES[rng.choice(sorted(SAMPLES))].split("\n")
                rows[at:at] = other
            case 6 if len(rows) > 1:
                low = at % (len(rows) - 1)
                rows[low : low + 2] = [" ".join(rows[low : low + 2])]
            case 7 if rows:
                words = rows[at % len(rows)].split()
                rng.shuffle(words)
                rows[at % len(rows)] = " ".join(words)
    return "\n".join(rows)


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(sorted(SAMPLES)),
    seed=st.integers(0, 2**32),
    way=st.sampled_from(WAYS),
    imported=st.dictionaries(
        st.sampled_from(["a.override", "z.override", "x.server"]),
        st.sampled_from(
            ["forward . 192.0.2.8\n", "dns64\n", "errors\n", ".:53 {\nerrors\n}\n", "{"]
        ),
        max_size=2,
    ),
)
@example(name="two-options-on-a-line", seed=0, way=WAYS[0], imported={})
def test_a_bent_corefile_is_refused_or_comes_back_to_the_byte(
    name: str, seed: int, way: Way, imported: dict[str, str]
) -> None:
    text = bend(SAMPLES[name], random.Random(seed))
    found = run(text, way, imported)
    before = "" if way.mode is Mode.IMPORT else text
    assert found.restored == before
    assert (found.refusal == "") == bool(found.texts)
    for written in found.texts if way.mode is not Mode.IMPORT else ():
        site = corefile_edits.find(way.mode, text, imported)
        assert corefile_edits.find(way.mode, written, imported).outside() == site.outside()


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=300), way=st.sampled_from(WAYS))
def test_any_text_at_all_is_refused_or_comes_back(text: str, way: Way) -> None:
    found = run(text, way)
    assert found.restored == ("" if way.mode is Mode.IMPORT else text)
