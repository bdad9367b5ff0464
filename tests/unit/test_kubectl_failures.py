"""What goes wrong around `kubectl nat64` is told in a sentence, without a traceback."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from nat64_operator.kubectl import agents, cli, connectivity_command
from nat64_operator.kubectl.agents import Agent
from nat64_operator.kubectl.cluster import Cluster
from nat64_operator.kubectl.exec_output import ClusterError, Json, Output

GATEWAY: Json = {"metadata": {"name": "default"}, "spec": {"prefix": "64:ff9b::/96"}}
OLD = Output(
    "",
    "usage: nat64-translator [-h] COMMAND ...\n"
    "nat64-translator: error: argument COMMAND: invalid choice: 'inspect' (choose from run)\n",
    2,
)


def pod(**container: Any) -> Json:
    return {
        "metadata": {
            "name": "nat64-default-x",
            "namespace": "nat64-system",
            "labels": {"nat64-operator.io/gateway": "default"},
        },
        "spec": {"nodeName": "node1"},
        "status": {"containerStatuses": [{"name": "translator", **container}]},
    }


class Played:
    """A cluster of one node, whose agent answers as told."""

    namespace = "default"

    def __init__(self, answer: Output | ClusterError, state: Json | None = None) -> None:
        self.answer = answer
        self.state = state or {"running": {}}

    def items(self, path: str, **_: str) -> list[Json]:
        if path.endswith("nat64gateways"):
            return [GATEWAY]
        return [pod(state=self.state)] if path.endswith("nat64-system/pods") else []

    def get(self, *_: Any, **__: str) -> Json:
        raise ClusterError("not found", 404)

    def exec(self, *_: Any) -> Output:
        if isinstance(self.answer, ClusterError):
            raise self.answer
        return self.answer


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def one(played: Played, *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(Cluster, "connect", lambda *_: played)
        code = cli.main(words)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return one


@pytest.mark.parametrize("command", ["status", "doctor", "sessions", "bib"])
def test_an_agent_that_does_not_know_the_command_is_said_to_be_of_another_version(
    run: Any, command: str
) -> None:
    code, out, err = run(Played(OLD), command)
    assert code == 1
    assert "of another version than this program" in " ".join((out + err).split())


@pytest.mark.parametrize("text", ["[{}]", "[1]", '{"a": 1}', "[]", "null", '[{"pools": 3}]'])
@pytest.mark.parametrize("command", ["status", "doctor", "sessions", "bib"])
def test_an_answer_of_another_form_is_no_traceback(run: Any, command: str, text: str) -> None:
    code, _, err = run(Played(Output(text, "", 0)), command)
    assert code in (0, 1, 2)
    if code == 2:
        assert "Are the operator and its agents of another version" in err


def test_a_fault_shows_its_trace_to_who_asks_for_it(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cli.DEBUG, "1")
    with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
        run(Played(Output("[1]", "", 0)), "status")


@pytest.mark.parametrize("command", ["status", "doctor", "sessions", "bib"])
def test_a_crashing_agent_is_a_sentence(run: Any, command: str) -> None:
    played = Played(OLD, {"waiting": {"reason": "CrashLoopBackOff"}})
    code, out, err = run(played, command)
    assert code == 1
    said = " ".join((out + err).split())
    assert "the translator's container does not run: CrashLoopBackOff" in said


@pytest.mark.parametrize("command", ["status", "sessions", "bib"])
def test_missing_rights_are_the_api_servers_own_words(run: Any, command: str) -> None:
    why = 'pods "nat64-default-x" is forbidden: User "u" cannot create resource "pods/exec"'
    code, out, err = run(Played(ClusterError(why, 403)), command)
    assert code in (0, 1)
    assert "cannot create resource" in out + err


@pytest.mark.parametrize(("target", "hinted"), [("", True), ("a.example:80", False)])
def test_a_failed_test_of_public_names_says_that_it_needs_the_internet(
    target: str, hinted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    connectivity_command.hint_at_target(argparse.Namespace(target=target))
    assert ("which is on the internet" in capsys.readouterr().err) is hinted


def test_an_answer_cut_off_is_a_sentence() -> None:
    report = agents.ask(Played(Output("{", "", 0)), Agent("g", "n", "s", "p", ""), ("status",))
    assert report.error.startswith("pod p: nat64-translator status: ")
