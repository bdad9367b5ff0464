"""`nat64-clat remove` where it can't: it fails, or only says so."""

from pathlib import Path

import pytest

from nat64_dataplane.agent_process import EXIT_FAILED, EXIT_OK
from nat64_dataplane.clat import cli


@pytest.mark.parametrize(("more", "code"), [((), EXIT_FAILED), (("--lenient",), EXIT_OK)])
def test_a_removal_that_can_t_be_done_holds_up_nobody_if_it_is_lenient(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    code: int,
) -> None:
    (tmp_path / "run").write_text("no directory")
    places = ("--run-dir", str(tmp_path / "run"), "--pins", str(tmp_path), "--netns", str(tmp_path))
    assert cli.main(["remove", "--name", "t", *places, *more]) == code
    assert "run" in capsys.readouterr().err


def test_the_status_of_no_agent_is_said_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", "--name", "t", "--run-dir", str(tmp_path)]) == EXIT_FAILED
    assert "no agent of CLAT 't'" in capsys.readouterr().err
