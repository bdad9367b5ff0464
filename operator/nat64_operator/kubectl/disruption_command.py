"""`kubectl nat64 test --disruption`: waits while flows are open, and collects the results."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from nat64_operator.kubectl import agents, disruption, doctor
from nat64_operator.kubectl.exec_output import ClusterError, Json
from nat64_operator.kubectl.output import EXIT_OK, EXIT_UNWELL, progress, say, show
from nat64_operator.kubectl.probe_pods import Pods


def run(pods: Pods, options: argparse.Namespace) -> int:
    """Wait while the flows are open, then count. Raises ClusterError if none opens."""
    nodes = list(pods.by_node)
    before = _until(pods, nodes, lambda _, report: disruption.established(report))
    for node, report in before.items():
        if not disruption.established(report):
            why = (report["opened"]["failed"] or [{"why": "the server answers no HTTP request"}])[
                -1
            ]
            raise ClusterError(f"{node}: no flow could be opened: {why['why']}")
    code = _while_open(options)
    ended = {node: _report(pods, node)["now"] for node in nodes}
    progress(options, "waiting for an answer on every flow")
    after = _until(pods, nodes, lambda node, report: disruption.settled(report, ended[node]))
    found = {**disruption.summary(before, after), "commandExitCode": code}
    sections = disruption.sections(found)
    show(options, found, lambda paint: doctor.text(sections, paint))
    if code:
        say(f"the command ended with exit code {code}")
    return EXIT_OK if doctor.is_well(sections) and not code else EXIT_UNWELL


def _while_open(options: argparse.Namespace) -> int | None:
    """Run the disruption; returns the exit code of the user's command, if there is one."""
    if options.run:
        progress(options, f"flows are open; running {' '.join(options.run)}")
        # Its output must not get into our JSON.
        try:
            return subprocess.run(options.run, check=False, stdout=sys.stderr).returncode
        except OSError as error:
            raise ClusterError(f"{options.run[0]}: {error.strerror}") from error
    if options.duration:
        progress(options, f"flows are open for {options.duration:g} s")
        time.sleep(options.duration)
        return None
    say("flows are open; press Ctrl-C when the disruption is over")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return None


def _until(
    pods: Pods, nodes: Sequence[str], good: Callable[[str, Json], bool]
) -> Mapping[str, Json]:
    """The reports of all nodes, once all are good or the flows have had enough time."""
    deadline = time.monotonic() + disruption.SILENCE + 10
    while True:
        reports = dict(zip(nodes, agents.together(partial(_report, pods), nodes), strict=True))
        if all(good(node, report) for node, report in reports.items()):
            return reports
        if time.monotonic() > deadline:
            return reports
        time.sleep(1)


def _report(pods: Pods, node: str) -> Json:
    """A pod's counts so far; its first report may not be there yet."""
    for _ in range(10):
        try:
            return pods.read(node, disruption.REPORT_PATH)
        except ClusterError as error:
            last = error
            time.sleep(1)
    raise last
