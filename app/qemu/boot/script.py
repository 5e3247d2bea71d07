"""A boot plan as a shell script that works when it is run as it stands: in any POSIX shell, as root or not.

It holds no secret: where one is needed, `farboot secret` asks for it. The serial line is the script's own input and
output, and when QEMU ends everything that was started or made is gone.
"""

from collections.abc import Iterator, Sequence

from app.qemu.boot.confine import FOLDER
from app.qemu.steps import (
    BootPlan,
    CheckUnchanged,
    CheckUnused,
    CopyFile,
    CreateOverlay,
    FetchImage,
    LaySecret,
    OpenFile,
    StartAgent,
    StartBridge,
    StartQemu,
    Step,
)
from probes.errors import Refused
from probes.text import clean, shell_word

_WIDTH = 110

_OPENING = """\
#!/bin/sh
# Boots {location}
{notes}set -eu
umask 077

# Everything is made in a folder of its own, which vanishes in the end.
folder=$(mktemp -d /var/tmp/farboot-XXXXXXXX)
helpers=
terminal=$(stty -g 2>/dev/null) || terminal=
end() {{
    status=$?
    trap - EXIT
    for helper in $helpers; do kill "$helper" 2>/dev/null || :; done
    wait
    cd /
    rm -rf "$folder"
    if [ -n "$terminal" ]; then stty "$terminal" || :; fi
    exit "$status"
}}
trap end EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$folder"
"""

_AWAIT = """\
until [ -S {socket} ]; do
    kill -0 "$!" 2>/dev/null || {{ echo 'the {helper} ended before it served anything' >&2; exit 1; }}
    sleep 0.1
done"""


def script(plan: BootPlan, notes: Sequence[str] = ()) -> str:
    """Return the script of `plan`, with these notes at its head beside its own. Raises Refused for a plan with
    refusals.
    """
    if plan.refusals:
        raise Refused("boot", plan.location, "; ".join(plan.refusals))
    said = [*plan.notes, *notes]
    if not any(isinstance(step, StartBridge) for step in plan.steps):
        said.append("farboot boot also checks, before the guest runs, that the image is still what was looked at")
    if any(isinstance(step, CheckUnused) for step in plan.steps):
        said.append("farboot boot also checks, before the guest runs, that nobody else has the image; this cannot")
    if any(isinstance(step, OpenFile) and step.exclusive for step in plan.steps):
        said.append("farboot boot opens the device exclusively, lest somebody mounts it meanwhile; a shell cannot")
    head = "".join(f"# ({clean(note)})\n" for note in said)
    parts = [_OPENING.format(location=clean(str(plan.location)), notes=head)]
    parts += ["\n".join(lines) + "\n" for step in plan.steps if (lines := list(_lines(step)))]
    return "\n".join(parts)


def _lines(step: Step) -> Iterator[str]:
    match step:
        case CreateOverlay():
            yield "# What the guest writes goes here, and nowhere else."
            yield _words(step.argv)
        case CopyFile():
            yield "# A copy of its own, that QEMU's account may read and write."
            yield from _folder_of(step.path)
            yield f"cat <{shell_word(step.source)} >{shell_word(step.path)}"
        case LaySecret():
            yield f"# QEMU reads the {clean(step.label)} from a file."
            yield from _folder_of(step.path)
            asked = _words(step.argv)
            if step.before:
                asked = f"{{ printf %s {shell_word(step.before)} && {asked}; }}"
            yield f"{asked} >{shell_word(step.path)}"
        case FetchImage():
            yield "# Its server cannot read in the middle of it: a whole copy is fetched, unless a good one lies here."
            yield _words(step.argv)
        case OpenFile():
            yield f"# QEMU finds it as /dev/fdset/{step.fd}, and needs no right to open it."
            yield from _opening(step)
        case StartBridge():
            yield "# The bridge reads the image for QEMU, and serves only what was looked at."
            yield _words(step.argv) + " </dev/null &"
            yield 'helpers="$helpers $!"'
            yield _AWAIT.format(socket=shell_word(step.socket), helper="bridge")
        case StartAgent():
            yield "# An ssh agent for QEMU, that signs with one key and for nothing else."
            yield _words(step.argv) + " </dev/null &"
            yield 'helpers="$helpers $!"'
            yield _AWAIT.format(socket=shell_word(step.socket), helper="agent")
        case StartQemu():
            if step.uid is not None:
                yield "# The folder belongs to the account that QEMU runs as."
                yield f'chown -R {step.uid}:{step.uid} "$folder"'
                yield ""
            if step.confinement:
                yield "# QEMU, shut in: it sees its programs, this folder, and nothing else of this host."
            yield from _long_command(step)
        case CheckUnchanged() | CheckUnused():
            return


def _opening(step: OpenFile) -> Iterator[str]:
    if step.writable:  # for `<>` makes what is missing
        gone = shell_word(f"there is no {clean(step.path)}")
        yield f"[ -e {shell_word(step.path)} ] || {{ printf '%s\\n' {gone} >&2; exit 1; }}"
    yield f"exec {step.fd}<{'>' if step.writable else ''}{shell_word(step.path)}"


def _folder_of(path: str) -> Iterator[str]:
    folder = path.rpartition("/")[0]
    if folder:
        yield f"mkdir -p {shell_word(folder)}"


def _long_command(step: StartQemu) -> Iterator[str]:
    """The confinement in filled lines, QEMU's own argv with an option a line, started so that the shell can still act.

    A shell that waits for a program in the foreground heeds no signal until it ends.
    """
    lines = [*_filled(step.confinement), *_by_option(step.argv), "<&0 &"]
    yield " \\\n    ".join(lines)
    yield 'qemu=$! helpers="$helpers $!"'
    yield 'wait "$qemu"'


def _filled(argv: Sequence[str]) -> Iterator[str]:
    line = ""
    for group in _by_option(argv):
        if line and len(line) + len(group) > _WIDTH:
            yield line
            line = ""
        line = f"{line} {group}" if line else group
    if line:
        yield line


def _by_option(argv: Sequence[str]) -> list[str]:
    """The words of `argv`, each option together with its values."""
    groups: list[list[str]] = []
    for index, word in enumerate(argv):
        # Of the values only setpriv's `-all,…` begin with a dash.
        if index == 0 or (word.startswith("-") and not word.startswith("-all")):
            groups.append([])
        groups[-1].append(word)
    return [_words(group) for group in groups]


def _words(words: Sequence[str]) -> str:
    return " ".join('"$folder"' if word == FOLDER else shell_word(word) for word in words)
