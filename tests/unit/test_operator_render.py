"""What is rendered for a gateway, where a mistake would show only under load."""

import json
import logging
import sys
from pathlib import Path

import msgspec
import pytest

from nat64_dataplane.log_format import JsonFormatter
from nat64_operator.api.gateway import Gateway
from nat64_operator.edge import logs
from nat64_operator.reconcile.drift import covers
from nat64_operator.render import containers, gateway, names
from nat64_operator.render.daemonset import daemon_set
from nat64_operator.render.resources import MEBI, add_memory, translator_resources
from tests.unit.operator_simulation import SETTINGS

DEFAULT = {
    "kind": "NAT64Gateway",
    "metadata": {"name": "default", "uid": "1", "resourceVersion": "1", "generation": 1},
    "spec": {},
}
STORED = Path(__file__).parent / "stored" / "pod-template.json"


@pytest.mark.parametrize(
    ("text", "mebi"),
    [("1", 1), ("250m", 1), ("64Mi", 64), ("1.5Gi", 1536), ("2k", 1), ("64e6", 62), ("1E3", 1)],
)
def test_memory_is_added_to_a_quantity_of_any_form(text: str, mebi: int) -> None:
    assert add_memory(text, 0) == f"{mebi}Mi"
    assert add_memory(text, 10 * MEBI) == f"{mebi + 10}Mi"


@pytest.mark.parametrize("text", ["", "much", "1Xi", "Mi", "NaN", "Infinity"])
def test_what_is_no_quantity_stays_as_it_is(text: str) -> None:
    assert add_memory(text, MEBI) == text


@pytest.mark.parametrize(
    ("live", "wanted", "same"),
    [
        ("64M", "64e6", True),
        ("1", "1000m", True),
        (1, "1", True),
        ("1Gi", "1G", False),
        ("NaN", "NaN ", False),
        ("much", "more", False),
    ],
)
def test_a_quantity_is_the_same_in_any_form(live: object, wanted: str, same: bool) -> None:
    assert covers({"memory": live}, {"memory": wanted}) is same


def test_a_translators_memory_grows_with_its_sessions() -> None:
    given = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "192Mi"}}
    made = translator_resources(given, 1_048_576)
    assert made == {"requests": {"cpu": "20m", "memory": "112Mi"}, "limits": {"memory": "592Mi"}}
    assert given["limits"] == {"memory": "192Mi"}


def test_no_limit_stays_no_limit() -> None:
    assert translator_resources({}, 1_048_576) == {}
    assert translator_resources({"limits": {"cpu": "1"}}, 1024) == {"limits": {"cpu": "1"}}


def test_labels_and_annotations_of_the_chart_are_on_the_pods_and_not_on_their_selector() -> None:
    ours = {"app.kubernetes.io/name": "nat64-gateway"}
    settings = msgspec.structs.replace(
        SETTINGS,
        pod_labels={"team": "network", "app.kubernetes.io/name": "stolen"},
        pod_annotations={"a/b": "c"},
    )
    made = daemon_set("nat64-a", settings, {}, match=ours, labels=ours, max_unavailable=1)
    metadata = made["spec"]["template"]["metadata"]
    assert metadata["labels"] == {"team": "network", **ours}
    assert metadata["annotations"]["a/b"] == "c"
    assert made["spec"]["selector"]["matchLabels"] == ours


def test_labels_and_annotations_of_the_chart_are_on_the_service_and_not_in_its_selector() -> None:
    given = {"team": "network", names.GATEWAY_LABEL: "stolen"}
    settings = msgspec.structs.replace(
        SETTINGS, service_labels=given, service_annotations={"a/b": "c"}
    )
    made = gateway.service(Gateway.parse(DEFAULT), settings)
    plain = gateway.service(Gateway.parse(DEFAULT), SETTINGS)
    labels = made["metadata"]["labels"]
    assert (labels["team"], labels[names.GATEWAY_LABEL]) == ("network", "default")
    assert made["metadata"]["annotations"]["a/b"] == "c"
    assert made["spec"] == plain["spec"]


def test_what_writes_to_the_node_gets_the_selinux_context() -> None:
    settings = msgspec.structs.replace(SETTINGS, selinux_options={"type": "spc_t"})
    for made, plain in (
        (containers.privileged(settings, "prepare"), containers.privileged(SETTINGS, "prepare")),
        (containers.translator(settings, 1, []), containers.translator(SETTINGS, 1, [])),
    ):
        assert made["securityContext"]["seLinuxOptions"] == {"type": "spc_t"}
        assert "seLinuxOptions" not in plain["securityContext"]


def test_the_log_format_reaches_every_container_and_text_changes_no_pod() -> None:
    settings = msgspec.structs.replace(SETTINGS, log_format="json")
    ports = Gateway.parse(DEFAULT).ports
    for given, env in (
        (settings, [{"name": "NAT64_LOG_FORMAT", "value": "json"}]),
        (SETTINGS, None),
    ):
        for made in (
            containers.privileged(given, "prepare"),
            containers.translator(given, 1, []),
            containers.dns64(given, ports),
        ):
            assert made.get("env") == env


def test_a_log_line_as_json_is_one_object_whatever_the_message() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "", 0, "x\n%s", ("y",), sys.exc_info())
    [line] = JsonFormatter().format(record).splitlines()
    found = json.loads(line)
    assert (found["level"], found["logger"], found["message"]) == ("error", "a", "x\ny")
    assert found["error"].endswith("ValueError: two\nlines")
    assert found["time"].endswith("Z")


@pytest.mark.parametrize(("level", "form"), [("loud", "text"), ("info", "xml")])
def test_a_log_setting_that_is_none_is_refused(level: str, form: str) -> None:
    with pytest.raises(ValueError, match="there are"):
        logs.set_up(level, form)


def test_an_upgrade_of_the_operator_alone_replaces_no_pod() -> None:
    """The template is that of the release before, so that the DaemonSet controller sees no change.
    Where it has to differ, renew the file with this test's text, and say in CHANGELOG.md that an
    upgrade replaces the data plane's pods.
    """
    read = Gateway.parse(DEFAULT)
    made = gateway.daemon_set(read, read.config(), SETTINGS)["spec"]["template"]
    assert json.dumps(made, indent=1, sort_keys=True) + "\n" == STORED.read_text()


def test_only_a_translator_that_advertises_may_open_a_raw_socket() -> None:
    def rights(**spec: object) -> list[str]:
        read = Gateway.parse({**DEFAULT, "spec": spec})
        template = gateway.daemon_set(read, read.config(), SETTINGS)["spec"]["template"]
        (translator,) = (c for c in template["spec"]["containers"] if c["name"] == "translator")
        found: list[str] = translator["securityContext"]["capabilities"]["add"]
        return found

    assert "NET_RAW" not in rights()
    assert {*rights(advertise={"interfaces": ["eth1"]})} - {*rights()} == {"NET_RAW"}
