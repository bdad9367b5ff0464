"""What the answers of a test pod mean: one step per check. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from nat64_operator.kubectl.checks import Step, note, ok, stop
from nat64_operator.kubectl.connectivity import CLUSTER_NAME, Node, Wish
from nat64_operator.kubectl.exec_output import Json
from nat64_operator.kubectl.pod_probe import IN_FRAGMENTS, WHOLE

CLAT_ADDRESS = "192.0.0.2"
"""Of every pod that has a CLAT (RFC 7335)."""
Explain = Callable[[], tuple[str, str]]
"""Why the target can't be reached, and a remedy, as `trace` finds them."""
_ALLOWED = (
    "look at the NAT64Gateway's spec.policy.allowedDestinations; if it does not list the "
    "address, report this as a vulnerability (SECURITY.md)"
)


def judge(node: Node, wish: Wish, answers: Mapping[str, Json], explain: Explain) -> Iterator[Step]:
    """One step per check; `explain` is called if the target can't be reached."""
    yield _pod(answers["self"])
    if "dns64" in answers:
        yield _dns64(node, wish, answers["dns64"], explain)
    if "tcp" in answers:
        yield _tcp(node, wish, answers["tcp"], explain)
    if "literal" in answers:
        yield _literal(wish, answers["literal"])
    if "udp" in answers:
        yield _udp(wish, answers["udp"])
    if "ping" in answers:
        yield _ping(wish, answers["ping"])
    if "pmtu" in answers:
        yield _pmtu(answers["pmtu"], answers.get("ping"))
    if "dual-stack" in answers:
        yield _dual_stack(node, wish.dual_stack, answers["dual-stack"])
    elif "dual-stack" not in wish.skip:
        yield note("dual-stack", "not tried: no name is given (--dual-stack NAME)")
    for key, answer in answers.items():
        kind, _, what = key.partition(" ")
        if kind == "exempt":
            yield _not_synthesized(node, what, answer)
        elif kind == "denied":
            yield _closed("denied", f"{what} can't be reached", what, answer, _ALLOWED)
        elif kind == "node":
            yield _closed("node", f"the node's own {what} can't be reached", what, answer, _ALLOWED)


def _pod(answer: Json) -> Step:
    if answer.get("four") == CLAT_ADDRESS and answer.get("six"):
        return ok("pod", f"{answer['six']}, and a CLAT for IPv4 literals")
    if answer.get("four"):
        return note(
            "pod",
            f"it has IPv4 {answer['four']} too: its programs may use that and not NAT64; the "
            "checks below use IPv6",
        )
    if not answer.get("six"):
        return stop("pod", "it has no IPv6 address", "NAT64 is for pods with IPv6")
    return ok("pod", f"{answer['six']}, no IPv4")


def _dns64(node: Node, wish: Wish, answer: Json, explain: Explain) -> Step:
    if answer["error"]:
        return stop("dns64", f"{wish.host}: {answer['error']}", *_why(explain))
    ours = [address for address in answer["six"] if node.translates(address)]
    if ours:
        return ok("dns64", f"{wish.host} is {', '.join(ours)}")
    if answer["six"]:
        return stop(
            "dns64",
            f"{wish.host} has IPv6 of its own ({answer['six'][0]}), and that proves nothing",
            "name a host that has IPv4 only: --target HOST:PORT",
        )
    return stop("dns64", f"{wish.host} gets no address under the prefix", *_why(explain))


def _tcp(node: Node, wish: Wish, answer: Json, explain: Explain) -> Step:
    target = f"{wish.host} port {wish.port}"
    if answer["error"]:
        return stop("tcp", f"no connection to {target}: {answer['error']}", *_why(explain))
    if not node.translates(answer["peer"]):
        return stop(
            "tcp",
            f"{target} was reached at {answer['peer']}, which is not under a prefix of this node",
            "name a host that has IPv4 only: --target HOST:PORT",
        )
    return ok("tcp", f"{target} in {answer['milliseconds']} ms, at {answer['peer']}")


def _literal(wish: Wish, answer: Json) -> Step:
    if answer["error"]:
        return stop(
            "literal",
            f"no connection from an IPv4 socket to {wish.host} port {wish.port}: {answer['error']}",
            "`kubectl nat64 doctor` says which pods have no CLAT, and why",
        )
    took = answer["milliseconds"]
    return ok("literal", f"{answer['peer']} in {took} ms, from an IPv4 socket through the CLAT")


def _udp(wish: Wish, answer: Json) -> Step:
    host = wish.udp_host or wish.host
    if not answer["error"]:
        return ok("udp", f"{answer['how']} from {host} port {wish.udp_port}")
    text = f"{host} port {wish.udp_port}: {answer['error']}"
    if not wish.udp_host and answer["error"] == "no answer":
        return note(
            "udp",
            f"not known: {text}, and the host may drop such datagrams",
            "name a server that answers datagrams: --udp HOST:PORT",
        )
    return stop(
        "udp", text, "a firewall on the node or behind it drops UDP from or to the pool's ports"
    )


def _ping(wish: Wish, answer: Json) -> Step:
    if not answer["error"]:
        return ok("ping", f"{wish.host} in {answer['milliseconds']} ms")
    return stop(
        "ping",
        f"{wish.host}: {answer['error']}",
        "if tcp works, the host or a firewall in front of it drops pings: name another host, or "
        "leave this out by --skip ping --skip pmtu",
    )


def _pmtu(answer: Json, small: Json | None) -> Step:
    if not answer["error"]:
        text = f"{answer['size']} octets went there and back"
        if answer["size"] < answer["first"]:
            text += f"; {answer['first']} were too long, and the pod was told so"
        return ok("pmtu", text)
    if small is not None and small["error"]:
        return note("pmtu", "not known: the host answers no pings at all")
    if answer.get("back") == [WHOLE]:
        return note(
            "pmtu",
            f"not known: pings of {WHOLE} octets are answered, longer ones, whose answers come in "
            "fragments, are not",
            "the CNI drops fragments of pings (Cilium does), which harms nothing else: give "
            "spec.lowestIPv6MTU the MTU of the pods' links, and look again",
        )
    remedy = (
        "a link on the way has a smaller MTU, and ICMP errors about it are dropped: let ICMP "
        "type 3 code 4 come in, or lower the uplink's MTU"
    )
    details: tuple[str, ...] = ()
    if IN_FRAGMENTS in answer.get("back", ()):
        details = (
            f"pings of {IN_FRAGMENTS} octets are answered: either the longer ones are lost, or "
            "their answers come as IPv4 fragments, because the way back carries less. NAT64 drops "
            "fragments of pings (RFC 7915 section 1.2), counts them as icmp_fragment, and "
            "translates those of TCP and UDP",
        )
    text = f"packets of {answer.get('size', '?')} octets are lost, and no error tells the pod so"
    return stop("pmtu", text, remedy, details)


def _dual_stack(node: Node, name: str, answer: Json) -> Step:
    translated = [a for a in answer.get("six") or () if node.translates(a)]
    if answer["error"] or not answer["six"]:
        why = answer["error"] or "it has no IPv6 address"
        return stop("dual-stack", f"{name}: {why}", "name a host that has both families")
    if not translated:
        return ok("dual-stack", f"{name} keeps {answer['six'][0]}")
    if any(p["spec"].get("translateAll") for p in node.policies):
        return ok("dual-stack", f"{name} is {translated[0]}: translateAll is set")
    return stop(
        "dual-stack",
        f"{name} is {translated[0]}: its own IPv6 addresses are left out",
        "the name has none after all, or the policy's excludeAAAA covers them",
    )


def _not_synthesized(node: Node, name: str, answer: Json) -> Step:
    name = CLUSTER_NAME if name == "cluster" else name
    if answer["error"]:
        if name == CLUSTER_NAME:
            return stop("exempt", f"{name}: {answer['error']}", "look at the cluster's DNS")
        return note("exempt", f"{name}: {answer['error']}")
    translated = [a for a in answer["six"] if node.translates(a)]
    if translated:
        return stop(
            "exempt",
            f"{name} is {translated[0]}, although nothing may be synthesized for it",
            "`kubectl -n nat64-system exec POD -c dns64 -- nat64-dns64 explain NAME` says why",
        )
    found = ", ".join([*answer["six"], *answer["four"]])
    if not found:
        return note(
            "exempt", f"{name} has no address of either family: --exempt NAME has more to say"
        )
    return ok("exempt", f"{name} is {found}")


def _closed(name: str, text: str, what: str, answer: Json, remedy: str) -> Step:
    """A refusal by the destination itself means that the packet arrived."""
    if answer["error"] and answer.get("code") != "ECONNREFUSED":
        return ok(name, f"{text}: {answer['error']}")
    how = "refuses the connection itself" if answer["error"] else "takes the connection"
    return stop(name, f"{what} {how}: packets get there", remedy)


def _why(explain: Explain) -> tuple[str, tuple[str, ...]]:
    """Remedy and details of a step, from a trace."""
    found, remedy = explain()
    return remedy, (f"trace: {found}",) if found else ()
