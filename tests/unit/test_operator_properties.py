"""Whatever several gateways and policies, their nodes and others do, the end state is the same.

Each case is made from one number, so that a failing one can be had again.
"""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from nat64_operator.reconcile import Node
from tests.unit.operator_simulation import COREFILE, Simulation

K3S = (Path(__file__).parent / "corefiles" / "k3s").read_text()
SEEDS = st.integers(0, 2**32)
Spec = dict[str, Any]


class Wish(NamedTuple):
    """What someone has written down: specs by name, in the order of their age."""

    gateways: Mapping[str, Spec]
    policies: Mapping[str, Spec]


GATEWAYS = ("a", "b", "default")


def span(first: int, last: int) -> dict[str, int]:
    return {"from": first, "to": last}


def good_gateway(number: int, rng: random.Random) -> Spec:
    """One that stands beside others of other numbers."""
    spec: Spec = {
        "prefix": f"64:ff9b:1:{number:x}::/96",
        "pools": [{"ports": span(40000 + 1000 * number, 40999 + 1000 * number)}],
        "nodeSelector": rng.choice([{}, {"zone": "x"}, {"zone": "y"}, {"zone": "nowhere"}]),
        "timeouts": {"udpSeconds": rng.choice([300, 301, 302])},
    }
    if spec["nodeSelector"] and rng.random() < 0.4:
        spec["topology"] = "Gateway"
        spec["gateways"] = {"tunnelPort": 20000 + number}
        spec["clients"] = {"nodeSelector": rng.choice([{}, {"zone": "z"}])}
    if rng.random() < 0.3:
        network = f"192.0.2.{number * 8}/29"
        spec["pools"] = [{"source": "Range", "range": network, "ports": span(1024, 65535)}]
        spec["staticMappings"] = [
            {
                "protocol": "TCP",
                "client": "2001:db8::10",
                "clientPort": 443,
                "address": f"192.0.2.{number * 8}",
                "port": 443,
            }
        ]
    return spec


def everywhere(number: int, rng: random.Random) -> Spec:
    """A good one that translates on every node."""
    spec = good_gateway(number, rng)
    for field in ("topology", "clients", "gateways"):
        spec.pop(field, None)
    return {**spec, "nodeSelector": {}}


def any_gateway(number: int, rng: random.Random) -> Spec:
    """One that may be in conflict, or that can't be."""
    choices: list[Spec] = [
        good_gateway(number, rng),
        good_gateway(number, rng),
        good_gateway(rng.randrange(3), rng),
        {},
        {"pools": [{"ports": span(100, 200)}, {"ports": span(150, 160)}]},
        {"hostPorts": {"dns": 6464, "dnsReady": 6464}},
        {"prefix": ["not", "of", "this", "version"]},
    ]
    return rng.choice(choices)


def any_policy(rng: random.Random) -> Spec:
    return {
        "gatewayRef": {"name": rng.choice([*GATEWAYS, *GATEWAYS, "nobody"])},
        "coreDNS": {
            "mode": rng.choice(["Forward", "Import", "Plugin", "Manual"]),
            "failMode": rng.choice(["Fallback", "Fail"]),
        },
        "translateAll": rng.random() < 0.2,
    }


def wish(rng: random.Random, gateway: Callable[[int, random.Random], Spec]) -> Wish:
    count = rng.randrange(1, 4)
    return Wish(
        {name: gateway(n, rng) for n, name in enumerate(GATEWAYS)},
        {f"p{n}": any_policy(rng) for n in range(count)},
    )


def nodes(rng: random.Random) -> dict[str, Node]:
    found = {}
    for n in range(rng.randrange(1, 5)):
        labels = {"kubernetes.io/os": "linux", "zone": rng.choice("xyz")}
        ranges = (f"fd00:{n}::/64", f"2001:db8::{n}/128")
        ready, address = rng.random() < 0.9, f"2001:db8::{n}"
        found[f"n{n}"] = Node(f"n{n}", labels, ready, ranges, internal=address)
    return found


def simulation(corefile: str, rng: random.Random) -> Simulation:
    made = Simulation()
    made.nodes = nodes(rng)
    made.write_corefile(corefile)
    return made


def ask_for(asked: Wish, made: Simulation) -> None:
    """Create what isn't there, edit what is."""
    for kind, specs in (("NAT64Gateway", asked.gateways), ("DNS64Policy", asked.policies)):
        for name, spec in specs.items():
            act = made.edit if name in made.custom[kind] else made.create
            act(kind, name, **spec)


def finish(made: Simulation) -> None:
    """Let all that waits for time have it, until there is nothing to do."""
    for _ in range(6):
        made.settle(limit=80)
        made.now += 1000
    made.settle(limit=80)


def declare(obj: Any, *path: str) -> None:
    """Note that someone else wrote a field, as the API server does."""
    fields: dict[str, Any] = {}
    for step in reversed(path):
        fields = {f"f:{step}": fields}
    obj["metadata"].setdefault("managedFields", []).append({"fieldsV1": fields})


def meddle(obj: Any, rng: random.Random) -> None:
    """A change of an object of ours that an API server would take."""
    if "data" in obj:
        if not obj.get("immutable"):
            obj["data"]["foreign"] = "x"
            declare(obj, "data", "foreign")
        return
    if "template" not in obj["spec"]:
        key, value = rng.choice([("sessionAffinity", "ClientIP"), ("externalIPs", ["192.0.2.9"])])
        obj["spec"][key] = value
        declare(obj, "spec", key)
        return
    pod = obj["spec"]["template"]["spec"]
    match rng.randrange(5):
        case 0:
            pod["hostPID"] = True
            declare(obj, "spec", "template", "spec", "hostPID")
        case 1:
            affinity = pod.setdefault("affinity", {}).setdefault("nodeAffinity", {})
            affinity["preferredDuringSchedulingIgnoredDuringExecution"] = []
            declare(obj, "spec", "template", "spec", "affinity", "nodeAffinity", "preferred")
        case 2:
            pod["containers"][0]["args"] = ["--other"]
            obj["metadata"].setdefault("managedFields", []).append(
                {
                    "fieldsV1": {
                        "f:spec": {
                            "f:template": {
                                "f:spec": {
                                    "f:containers": {'k:{"name":"translator"}': {"f:args": {}}}
                                }
                            }
                        }
                    }
                }
            )
        case 3:
            pod["nodeSelector"] = {**pod.get("nodeSelector", {}), "nobody": "here"}
        case 4:
            pod["containers"].append({"name": "guest", "image": "guest"})


def damage(made: Simulation, rng: random.Random, spared: tuple[str, ...] = ()) -> None:
    """What others do to a cluster."""
    for ref in list(made.owned):
        match rng.randrange(8):
            case 0 if not ref.name.startswith(spared):
                del made.owned[ref]
            case 1:
                meddle(made.owned[ref], rng)
            case 2:
                made.owned[ref]["metadata"].pop("annotations", None)
    for objects in made.custom.values():
        for obj in objects.values():
            if rng.random() < 0.2:
                status = obj.setdefault("status", {})
                kept = [c for c in status.get("conditions", []) if c["type"] != "Theirs"]
                theirs = {"type": "Theirs", "status": "True", "reason": "X", "message": ""}
                status["conditions"] = [*kept, theirs]


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, corefile=st.sampled_from([COREFILE, K3S]))
def test_whatever_is_asked_for_there_is_an_end(seed: int, corefile: str) -> None:
    rng = random.Random(seed)
    made = simulation(corefile, rng)
    for _ in range(rng.randrange(1, 4)):
        ask_for(wish(rng, any_gateway), made)
        for _ in range(rng.randrange(5)):
            made.step()
        damage(made, rng)
        made.nodes = nodes(rng)
    finish(made)
    assert made.step().groups == ()
    for kind, objects in made.custom.items():
        for name in objects:
            for type_ in ("Accepted", "Programmed", "Ready"):
                assert made.condition(kind, name, type_)[0] in ("True", "False", "Unknown")


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, corefile=st.sampled_from([COREFILE, K3S]))
@example(seed=1_162_937_774, corefile=K3S)  # the policy moves from one gateway to another
def test_the_way_there_does_not_matter(seed: int, corefile: str) -> None:
    rng = random.Random(seed)
    # On every node: whether CoreDNS stays wired where no sidecar is left depends on whether it was.
    final = wish(rng, everywhere)
    straight = simulation(corefile, rng)
    ask_for(final, straight)
    finish(straight)

    made = simulation(corefile, rng)
    before = wish(rng, good_gateway)
    policies = {name: any_policy(rng) for name in final.policies}
    ask_for(before._replace(policies=policies), made)
    for _ in range(rng.randrange(3)):
        for _ in range(rng.randrange(6)):
            made.step()
        # The record of an edit is all that is known of it once the policy asks for another.
        damage(made, rng, spared=("nat64.wiring.",))
    made.nodes = straight.nodes
    ask_for(final, made)
    finish(made)
    # Of two that want the same, the one that had it keeps it: there the way does matter.
    if not any(reason.endswith("Conflict") for reason in refusals(straight)):
        assert made.everything() == straight.everything()


def refusals(made: Simulation) -> list[str]:
    """Why objects are not accepted."""
    objects = ((kind, name) for kind, found in made.custom.items() for name in found)
    accepted = (made.condition(kind, name, "Accepted") for kind, name in objects)
    return [reason for status, reason, *_ in accepted if status == "False"]


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, corefile=st.sampled_from([COREFILE, K3S]))
def test_deleting_everything_leaves_what_was_there_before(seed: int, corefile: str) -> None:
    rng = random.Random(seed)
    made = simulation(corefile, rng)
    ask_for(wish(rng, any_gateway), made)
    for _ in range(rng.randrange(15)):
        made.step()
    if rng.random() < 0.5:
        ask_for(wish(rng, any_gateway), made)
        made.step()
    objects = [(kind, name) for kind, found in made.custom.items() for name in found]
    rng.shuffle(objects)
    for kind, name in objects:
        made.delete(kind, name)
        for _ in range(rng.randrange(4)):
            made.step()
    finish(made)
    assert made.custom == {"NAT64Gateway": {}, "DNS64Policy": {}}
    assert made.owned == {}
    assert made.text() == corefile
    assert made.custom_files is None
