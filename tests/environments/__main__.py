"""Runs the product suite in environments: `python -m tests.environments [NAME ...] [--record]`."""

import argparse
import contextlib
import datetime
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from tests.cluster import images
from tests.cluster.paths import REPO, STATE
from tests.cluster.run import ClusterError, say
from tests.environments import results
from tests.environments.catalogue import ENVIRONMENTS
from tests.environments.environment import NOT_STARTED, Environment

# For pytest to end its cluster when it is told to stop.
_GRACE = 30
# Of what a run took when its result was written, which was beside other work. A run that is ended
# as its time is up fails nothing: little is needed.
_LONGER = 1.1
# To take the cluster away.
_DOWN = 45
# Of the machine, where a cluster can't be had or isn't taken away: nothing that the suite found.
_TROUBLE = (ClusterError, OSError, subprocess.SubprocessError)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.environments", description=__doc__)
    parser.add_argument("name", nargs="*", help="which; all where none is named")
    parser.add_argument("--record", action="store_true", help="write docs/results/environments")
    parser.add_argument("--list", action="store_true", help="say which there are")
    parser.add_argument(
        "--within",
        type=float,
        metavar="SECONDS",
        help="leave out what is usually not done by then, or would have to be built first",
    )
    parser.add_argument("-k", metavar="EXPRESSION", help="only these tests; records nothing")
    given = parser.parse_args()
    if given.list:
        print(*(f"{e.name:24} {e.says}" for e in ENVIRONMENTS.values()), sep="\n")
        return 0
    if unknown := set(given.name) - set(ENVIRONMENTS):
        parser.error(f"no environment {', '.join(sorted(unknown))}; there are {[*ENVIRONMENTS]}")
    if given.record and given.k:
        parser.error("a part of the suite is no result")
    failed, left_out, began = [], [], time.monotonic()
    names = given.name or [*ENVIRONMENTS]
    if not given.name and (untried := results.not_run() & set(names)):
        # Nobody has seen these pass; a run by name, with --record, is what changes that.
        left_out += [f"{name} (its result says why)" for name in names if name in untried]
        names = [name for name in names if name not in untried]
    for name in names:
        if given.within is not None:
            left = given.within - (time.monotonic() - began)
            try:
                found, why = run_within(ENVIRONMENTS[name], left, given.k)
            except SystemExit:  # told to end; what has failed before stays a failure
                left_out += [*names[names.index(name) :], "as it was told to end"]
                break
            failed += [f"{name} ({test}: {reason})" for test, reason in found.items()]
            left_out += [f"{name} ({why})"] if why else []
            continue
        result = run(ENVIRONMENTS[name], given.k)
        if given.record:
            say(f"wrote {results.write(result).relative_to(REPO)}")
        if result["failed"]:
            failed.append(name)
    if left_out:
        say(f"environments: left out: {', '.join(left_out)}")
    say(f"environments: {'failed: ' + ', '.join(failed) if failed else 'nothing that ran failed'}")
    return 1 if failed else 0


def run_within(
    environment: Environment, left: float, expression: str | None = None
) -> tuple[dict[str, str], str]:
    """Run it if that can be done in `left` seconds: what failed, and why tests are left out.

    Only a test that failed twice, on two clusters, is a failure; what failed once is said. A
    cluster that doesn't start, or a run that takes longer than it may, is a reason why it is left
    out.
    """
    began = time.monotonic()
    needs = (results.usual_seconds(environment.name) or environment.seconds) * _LONGER
    if left < needs:
        return {}, f"may need {needs:.0f} s, {max(left, 0):.0f} s are left"
    try:
        if lacking := environment.cluster().lacking():
            return {}, f"the cache lacks {', '.join(lacking)}"
        result = run(environment, expression, left - _GRACE - _DOWN)
    except _TROUBLE as error:
        return {}, str(error)
    why = result["failed"].pop(results.THE_RUN, "")
    left -= time.monotonic() - began
    return run_again(environment, result["failed"], left - _GRACE - _DOWN), why


def run_again(environment: Environment, failed: dict[str, str], left: float) -> dict[str, str]:
    """Run tests that failed a second time, on a cluster of their own: what failed both times.

    What the `left` seconds, or a cluster that doesn't start, keep from a second run is said, and
    is no failure.
    """
    if not failed:
        return {}
    name = f"environments: {environment.name}"
    for test, reason in failed.items():
        say(f"{name}: {test} failed: {reason}")
    functions = sorted({test.partition("[")[0] for test in failed})
    try:
        if left <= 0:
            raise ClusterError("no time is left")
        say(f"{name}: running again: {', '.join(functions)}")
        again = run(environment, " or ".join(functions), left)
    except _TROUBLE as error:
        say(f"{name}: WARNING: what failed did not run again, so it is not counted: {error}")
        return {}
    if once := sorted(set(failed) & set(again["passed"])):
        say(f"{name}: passed when run again: {', '.join(once)}")
    if unknown := sorted(set(failed) - set(again["passed"]) - set(again["failed"])):
        why = again["failed"].get(results.THE_RUN, "the second run has no result of them")
        say(f"{name}: WARNING: did not run again, not counted: {', '.join(unknown)}: {why}")
    return {test: reason for test, reason in failed.items() if test in again["failed"]}


def run(
    environment: Environment, expression: str | None = None, seconds: float | None = None
) -> dict[str, Any]:
    """Run the suite in one environment and take it away, however it ends; return what was found.

    It may take `seconds`, and never more than is right for the environment.
    """
    limit = min(environment.seconds, seconds or environment.seconds)
    cluster = environment.cluster()
    # What is slow once is no part of the time that a run may take.
    cluster.build()
    images.ensure(images.PRODUCT)
    report = REPO / "build" / "environments" / f"{environment.name}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "pytest", f"tests/environments/{environment.suite}"]
    argv += ["--junitxml", str(report), "--durations=8"]
    argv += ["-k", expression] if expression else []
    say(f"environments: {environment.name}: {environment.says}")
    env = os.environ | {"ENVIRONMENT": environment.name}
    began, today = time.monotonic(), datetime.datetime.now(datetime.UTC).date().isoformat()
    ending = ""
    process = subprocess.Popen(argv, env=env, cwd=REPO, start_new_session=True)
    try:
        if process.wait(limit) == NOT_STARTED:
            ending = "its cluster did not start"
    except subprocess.TimeoutExpired:
        ending = f"it was ended after {limit:.0f} s"
        say(f"environments: {environment.name}: {ending}")
    finally:
        _end(process)
        _keep_logs(environment.name)
        cluster.down()
    took = time.monotonic() - began
    result = results.from_junit(environment, report, today, took, ending)
    counts = ", ".join(f"{len(result[what])} {what}" for what in ("passed", "failed", "skipped"))
    say(f"environments: {environment.name}: {counts} ({took:.0f} s)")
    return result


def _keep_logs(name: str) -> None:
    """Copy what the nodes' programs said: `down` removes it with the cluster."""
    kept = REPO / "build" / "environments" / name
    shutil.rmtree(kept, ignore_errors=True)
    for logs in STATE.glob("*/logs"):
        shutil.copytree(logs, kept / logs.parent.name)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the suite and all that it started."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)


if __name__ == "__main__":
    # What ends the runner ends the environment too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("environments: terminated"))
    try:
        sys.exit(main())
    except ClusterError as error:
        sys.exit(f"environments: {error}")
