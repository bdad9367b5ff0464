"""Imports and environment variables, as CoreDNS reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nat64_dataplane.corefile import CorefileError, load


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        directory.joinpath(name.replace("__", ".")).write_text(text)
    return directory / "Corefile"


def names(path: Path, **environ: str) -> list[list[str]]:
    blocks = load(path, environ).blocks
    return [[" ".join((s.name.text, *s.values)) for s in block.stanzas] for block in blocks]


def test_a_snippet_stands_where_it_is_imported(tmp_path: Path) -> None:
    path = write(
        tmp_path, Corefile="(common) {\nerrors\nlog\n}\n. {\nimport common\nforward . ::1\n}"
    )
    assert names(path) == [["errors", "log", "forward . ::1"]]


def test_files_are_imported_in_order_relative_to_the_importing_file(tmp_path: Path) -> None:
    write(tmp_path, b__override="log", a__override="errors\n", c__server="x.example {\n}\n")
    path = write(tmp_path, Corefile=". {\nimport *.override\n}\nimport *.server\n")
    assert names(path) == [["errors", "log"], []]
    files = [Path(name).name for name, _ in load(path).files]
    assert files == ["Corefile", "a.override", "b.override", "c.server"]


def test_imports_within_a_stanza_give_it_options(tmp_path: Path) -> None:
    write(tmp_path, options="policy sequential\n")
    path = write(tmp_path, Corefile=". {\nforward . ::1 {\nimport options\n}\n}")
    (forward,) = load(path).blocks[0].stanzas
    assert [option.values for option in forward.options("policy")] == [("sequential",)]


def test_a_pattern_may_match_nothing_but_a_file_must_exist(tmp_path: Path) -> None:
    assert names(write(tmp_path, Corefile=". {\nimport none/*.conf\nerrors\n}")) == [["errors"]]
    path = write(tmp_path, Corefile=". {\nerrors\nimport none\n}")
    with pytest.raises(CorefileError, match=r"Corefile:3: import none: No such file"):
        load(path)


def test_variables_are_replaced_within_words(tmp_path: Path) -> None:
    path = write(tmp_path, Corefile='.:{$PORT} {\nlog . "{%A%} {common}{$UNSET}"\n}')
    (block,) = load(path, {"PORT": "1053", "A": "x y"}).blocks
    assert block.addresses[0].port == 1053
    assert block.stanzas[0].values == (".", "x y {common}")


def test_imports_that_import_each_other_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, Corefile="(a) {\nimport b\n}\n(b) {\nimport a\n}\n. {\nimport a\n}")
    with pytest.raises(CorefileError, match="imports import each other without end"):
        load(path)


@pytest.mark.parametrize("line", ["import", "import a b", "import a* {\n}", "import */*.conf"])
def test_an_import_that_names_no_one_thing_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(CorefileError, match=r"Corefile:2: import"):
        load(write(tmp_path, Corefile=f". {{\n{line}\n}}"))


def test_what_is_not_utf8_is_refused(tmp_path: Path) -> None:
    tmp_path.joinpath("Corefile").write_bytes(b". {\xff\n}")
    with pytest.raises(CorefileError, match="not UTF-8"):
        load(tmp_path / "Corefile")
