"""Edits of a Corefile leave every byte alone that they don't mean."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nat64_dataplane import corefile
from tests.unit.test_corefile_parse import KUBEADM


def test_a_stanza_is_replaced_and_nothing_else() -> None:
    tree = corefile.parse(KUBEADM)
    (forward,) = tree.blocks[0].find("forward")
    text = corefile.render(
        "forward", [".", "[fd00::10]:53", "/etc/resolv.conf"], ["policy sequential"], indent="    "
    ).lstrip()
    edited = corefile.apply(tree.text, [corefile.replace(forward, text)])
    before, after = KUBEADM.split("forward . /etc/resolv.conf {\n       max_concurrent 1000\n    }")
    assert edited == before + text + after


def test_comments_and_carriage_returns_around_an_edit_survive() -> None:
    source = "# mine\r\n.:53 {\r\n\tforward . 192.0.2.1 # upstream\r\n\tcache\r\n}\r\n"
    tree = corefile.parse(source)
    (forward,) = tree.blocks[0].find("forward")
    edited = corefile.apply(source, [corefile.replace(forward, "forward . 192.0.2.2")])
    assert edited == source.replace("192.0.2.1", "192.0.2.2")


def test_a_stanza_is_removed_with_its_lines() -> None:
    tree = corefile.parse(KUBEADM)
    (health,) = tree.blocks[0].find("health")
    edited = corefile.apply(KUBEADM, [corefile.remove(tree, health)])
    assert edited == KUBEADM.replace("    health {\n       lameduck 5s\n    }\n", "")


def test_a_stanza_is_inserted_after_another_with_its_indentation() -> None:
    tree = corefile.parse(KUBEADM)
    (errors,) = tree.blocks[0].find("errors")
    edited = corefile.apply(KUBEADM, [corefile.insert_after(tree, errors, "log")])
    assert edited == KUBEADM.replace("    errors\n", "    errors\n    log\n")


@pytest.mark.parametrize("source", [".:53 {\n}\n", ".:53 {\n    errors\n}\n", ".:53 { errors }\n"])
def test_a_stanza_is_inserted_into_a_block(source: str) -> None:
    tree = corefile.parse(source)
    edited = corefile.apply(source, [corefile.insert_into(tree, tree.blocks[0], "a {\n    b\n}")])
    stanza = corefile.parse(edited).blocks[0].stanzas[-1]
    assert (stanza.name.text, [line.name.text for line in stanza.body or ()]) == ("a", ["b"])


def test_edits_may_not_overlap() -> None:
    with pytest.raises(ValueError, match="overlap"):
        corefile.apply("abc", [corefile.Edit(0, 2, ""), corefile.Edit(1, 3, "")])


@given(st.lists(st.text(max_size=10), max_size=5))
def test_what_render_writes_is_read_back(args: list[str]) -> None:
    assume(not any("\\" in arg for arg in args))
    text = ".:53 {\n" + corefile.render("name", args, indent="    ") + "\n}\n"
    (stanza,) = corefile.parse(text).blocks[0].stanzas
    assert stanza.values == tuple(args)


@given(st.text(alphabet='a\\" #{', max_size=8))
def test_a_quoted_word_reads_as_itself_or_is_refused(word: str) -> None:
    try:
        written = corefile.quote(word)
    except ValueError:
        return
    (token,) = corefile.tokenize(written)
    assert token.text == word


@given(st.integers(0, 9), st.sampled_from(["x", "y {\n        z\n    }"]))
def test_an_edit_leaves_every_other_stanza_as_written(index: int, text: str) -> None:
    tree = corefile.parse(KUBEADM)
    target = tree.blocks[0].stanzas[index]
    edited = corefile.apply(KUBEADM, [corefile.replace(target, text)])
    after = corefile.parse(edited)
    for old, new in zip(tree.blocks[0].stanzas, after.blocks[0].stanzas, strict=True):
        if old is not target:
            assert KUBEADM[old.start : old.end] == edited[new.start : new.end]
