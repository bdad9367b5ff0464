"""The wiring of one Corefile from beginning to end, with nothing around it: what is written, what
is refused, and what comes back.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from nat64_operator.api.policy import FailMode, Forward, Mode
from nat64_operator.coredns import corefile_edits, forward_line, root_block
from nat64_operator.coredns.carried_upstreams import carried
from nat64_operator.coredns.corefile_edits import Edit
from nat64_operator.coredns.observed_corefile import File
from nat64_operator.coredns.wiring import unwire, wire
from nat64_operator.coredns.wiring_case import Answer, Case
from nat64_operator.coredns.wiring_record import Record
from nat64_operator.errors import UnsupportedCorefileError
from nat64_operator.settings import Settings

SAMPLES = Path(__file__).parent / "samples"
SIDECARS = "fd00:10:96::64"
OWN = forward_line.upstream(SIDECARS)
PREFIX = "64:ff9b:1::/96"
KEY = "nat64-default.override"
SETTINGS = Settings(dataplane_image="dataplane:test")


class Way(NamedTuple):
    """A mode, and for `Forward` and `Import` a fail mode."""

    mode: Mode
    fail_mode: FailMode = FailMode.FALLBACK

    def __str__(self) -> str:
        return f"{self.mode.value}-{self.fail_mode.value}"


WAYS = (
    Way(Mode.FORWARD),
    Way(Mode.FORWARD, FailMode.FAIL),
    Way(Mode.PLUGIN),
    Way(Mode.IMPORT),
)


class Wired(NamedTuple):
    """What came of it."""

    refusal: str
    """Why nothing was written; empty where it was."""
    texts: tuple[str, ...]
    """Each text that was written, the last one confirmed."""
    restored: str
    """What was left when all was taken back."""
    warning: str = ""


def read(name: str) -> str:
    """A sample, byte for byte."""
    return (SAMPLES / name).read_bytes().decode()


def names() -> list[str]:
    return sorted(path.name for path in SAMPLES.iterdir())


def run(text: str, way: Way, imported: Mapping[str, str] | None = None) -> Wired:
    """Wire it, have it confirmed, and take it back, as the operator does. Raises nothing."""
    files = imported or {}
    before = "" if way.mode is Mode.IMPORT else text
    now, current, record, written = 0.0, before, None, list[str]()
    for _ in range(12):
        case = _case(current, text, way, record, now, files)
        refusal = ""
        try:
            case = case._replace(edit=_edit(text, way, files), refusal=_upstreams(text, way, files))
            step = wire(case)
            refusal = step.message if step.reason == "CorefileUnsupported" else ""
        except UnsupportedCorefileError as error:
            refusal = str(error)
        if refusal:
            assert not written, f"refused only after a write: {refusal}"
            return Wired(refusal, (), current)
        record = step.store or record
        if step.write is not None:
            current = step.write
            written.append(current)
        now += 1
    assert step.reason == "Wired", step
    assert record is not None
    for _ in range(6):
        step = unwire(_case(current, text, way, record, now, files))
        record = step.store or record
        current = step.write if step.write is not None else current
        now += 100
    assert step.forget
    return Wired("", tuple(written), current, step.warning)


def _case(
    current: str, main: str, way: Way, record: Record | None, now: float, files: Mapping[str, str]
) -> Case:
    key = KEY if way.mode is Mode.IMPORT else "Corefile"
    file = File("kube-system", "coredns", key, way.mode, current, "1")
    wired = record is not None and current == record.applied
    answer = Answer(wired, "said", now, clear=not wired, probed=True)
    imports = main if way.mode is Mode.IMPORT else ""
    return Case(None, file, record, answer, now, SETTINGS, "default", PREFIX, imports, files)


def _edit(text: str, way: Way, files: Mapping[str, str]) -> Edit:
    forward, plugin = corefile_edits.Forward(SIDECARS, way.fail_mode), corefile_edits.Plugin(PREFIX)
    if way.mode is Mode.PLUGIN:
        return plugin
    if way.mode is Mode.FORWARD:
        return forward
    wins = corefile_edits.overrides(text, KEY, files)
    behind = (
        forward_line.find(text, files).upstreams
        if wins and root_block.root(text, files).forwards()
        else ()
    )
    content = corefile_edits.imported(plugin, forward if wins else None, behind)
    return corefile_edits.Import(content, KEY)


def _upstreams(text: str, way: Way, files: Mapping[str, str]) -> str:
    """Why the sidecars can't ask in CoreDNS's place; Plugin asks none."""
    if way.mode is Mode.PLUGIN:
        return ""
    try:
        carried(forward_line.find(text, files), OWN, Forward())
    except UnsupportedCorefileError as error:
        return str(error)
    return ""
