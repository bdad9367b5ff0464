"""The cluster's commands: `python -m tests.cluster up`, and so on."""

import argparse
import os
import sys

from tests.cluster.cluster import Cluster
from tests.cluster.joining import join, leave
from tests.cluster.network import NODE3
from tests.cluster.run import ClusterError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start the cluster, unless it runs")
    up.add_argument("--audit", action="store_true", help="have the API server keep an audit log")
    commands.add_parser("join", help="have the node without IPv4, node3, join it")
    commands.add_parser("leave", help="take node3 away again")
    commands.add_parser("down", help="stop it and leave nothing behind")
    commands.add_parser("status", help="say what runs")
    commands.add_parser("images", help="build the product's images and import them")
    shell = commands.add_parser("shell", help="a shell, or one command, on a node or `internet`")
    shell.add_argument("node", choices=["node1", "node2", "node3", "internet"])
    shell.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    for name in ("kubectl", "helm"):
        client = commands.add_parser(name, help=f"run {name} as the administrator", add_help=False)
        client.add_argument("argv", nargs=argparse.REMAINDER)
    # kubectl's and Helm's own options are none of this parser's business.
    given, rest = parser.parse_known_args()
    cluster = Cluster()
    match given.command:
        case "up":
            cluster.up(audit=given.audit)
        case "join":
            join(cluster, NODE3)
        case "leave":
            leave(cluster, NODE3)
        case "down":
            cluster.down()
        case "status":
            print(cluster.status())
            return 1 if cluster.problems() else 0
        case "images":
            cluster.load_images()
        case "shell":
            place = cluster.internet if given.node == "internet" else cluster.node(given.node)
            words = given.argv[1:] if given.argv[:1] == ["--"] else given.argv
            become([*place.enter(), *(words or ["bash"])])
        case name:
            become(cluster.client(name, *rest, *given.argv))
    return 0


def become(argv: list[str]) -> None:
    """Let another program have this process, its terminal and its exit code."""
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClusterError as error:
        sys.exit(f"cluster: {error}")
