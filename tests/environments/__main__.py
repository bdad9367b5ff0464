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
from tests.environments.environment import Environment

# For pytest to end its cluster when it is told to stop.
_GRACE = 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.environments", description=__doc__)
    parser.add_argument("name", nargs="*", help="which; all where none is named")
    parser.add_argument("--record", action="store_true", help="write docs/results/environments")
    parser.add_argument("--list", action="store_true", help="say which there are")
    parser.add_argument("--within", type=float, metavar="SECONDS", help="leave out what needs more")
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
            if left < (needs := ENVIRONMENTS[name].needs()):
                left_out.append(f"{name} (may need {needs} s, {left:.0f} s are left)")
                continue
        result = run(ENVIRONMENTS[name], given.k)
        if given.record:
            say(f"wrote {results.write(result).relative_to(REPO)}")
        if result["failed"]:
            failed.append(name)
    if left_out:
        say(f"environments: left out: {', '.join(left_out)}")
    say(f"environments: {'failed: ' + ', '.join(failed) if failed else 'all that ran passed'}")
    return 1 if failed else 0


def run(environment: Environment, expression: str | None = None) -> dict[str, Any]:
    """Run the suite in one environment and take it away, however it ends; return what was found."""
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
        process.wait(environment.seconds)
    except subprocess.TimeoutExpired:
        ending = f"it was ended after {environment.seconds} s"
        say(f"environments: {environment.name}: {ending}")
    finally:
        _end(process)
        _keep_logs(environment.name)
        cluster.down()
    return results.from_junit(environment, report, today, time.monotonic() - began, ending)


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
