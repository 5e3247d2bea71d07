"""Carrying out the steps of a boot plan, up to a QEMU that has opened everything, was checked, and is still paused."""

import asyncio
import errno
import fcntl
import json
import os
import shutil
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

from app.qemu.sessions import qmp
from app.qemu.sessions.checks import CHECK_DEADLINE, in_thread, look_again, look_for_others
from app.qemu.sessions.child import Child, environment
from app.qemu.sessions.folders import Folder
from app.qemu.sessions.serial import SerialLine
from app.qemu.sessions.wire import error_from_json
from app.qemu.steps import (
    UNLOCKS,
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
from probes.credentials import Credentials, Secret
from probes.errors import Changed, Denied, FarbootError, Locked, NotFound, Refused, TimedOut, Unsupported
from probes.location import Location

OPEN_DEADLINE = 60.0
"""Seconds that QEMU, or a helper, may take to open everything."""
_OVERLAY_DEADLINE = 30.0
_REASON_DEADLINE = 10.0
_POLL = 0.02

_DOES_NOT_UNLOCK = "Invalid password"  # QEMU's crypto/block-luks.c

Helper: TypeAlias = StartBridge | StartAgent
"""What runs beside QEMU and serves it on a Unix socket."""


@dataclass(frozen=True)
class Order:
    """What a supervisor is asked to do. `secrets` are by the path of their `LaySecret` step."""

    plan: BootPlan
    secrets: Mapping[str, Secret]
    credentials: Credentials

    def credentials_for(self, location: Location) -> Credentials:
        """The credentials for an image of the chain: a signed query is for the booted one alone."""
        return self.credentials if location == self.plan.location else replace(self.credentials, query=None)


@dataclass
class Machinery:
    """What has been started for one guest, so far; whatever happens, `clear` takes it down."""

    folder: Folder
    line: SerialLine
    qemu: Child | None = None
    monitor: qmp.Monitor | None = None
    helpers: dict[Helper, Child] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    nodes: Sequence[Mapping[str, object]] = ()

    async def clear(self) -> None:
        """End QEMU, then those that serve it; close everything."""
        if self.qemu is not None:
            self.qemu.kill()
            await self.qemu.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self.line.ended.wait()
        if self.monitor is not None:
            await self.monitor.close()
        for helper in self.helpers.values():
            await helper.end()
        self.close_files()

    def close_files(self) -> None:
        """Let go of the host files: as long as we hold them, so do their locks."""
        for descriptor in self.files.values():
            os.close(descriptor)
        self.files.clear()


async def carry_out(order: Order, machinery: Machinery, checking: Callable[[], None]) -> None:
    """Carry out all steps; `checking` is called once QEMU has opened everything. Raises FarbootError."""
    for step in order.plan.steps:
        await _carry_out(step, order, machinery, checking)
    if machinery.qemu is None:
        raise Unsupported("boot", order.plan.location, "the plan starts no QEMU")
    machinery.close_files()


async def _carry_out(step: Step, order: Order, machinery: Machinery, checking: Callable[[], None]) -> None:
    folder = machinery.folder
    match step:
        case CreateOverlay():
            await _create_overlay(step, folder)
        case CopyFile():
            _copy(step, folder)
        case LaySecret():
            secret = step.before + order.secrets[step.path].reveal()
            folder.make_way(step.path)
            folder.create(step.path, secret.encode("utf-8", "surrogateescape"))
        case StartBridge() | StartAgent():
            machinery.helpers[step] = await start_helper(step, order.credentials_for(step.location), folder)
        case FetchImage():
            return  # it lies here, or opening it says so
        case OpenFile():
            machinery.files[step.path] = _open(step)
        case StartQemu():
            try:
                await _start_qemu(step, order.plan, machinery)
            except FarbootError as error:
                await _see_whether_it_changed(order, error)
                raise
            checking()
        case CheckUnchanged():
            await _check(step, order.credentials_for(step.location), machinery)
        case CheckUnused():
            own = os.path.basename(folder.path)
            look = partial(look_for_others, step, order.credentials_for(step.location), own)
            await in_thread(look, CHECK_DEADLINE, step.location)


async def _create_overlay(step: CreateOverlay, folder: Folder) -> None:
    tool = Child(step.argv, folder.path, environment(folder.path))
    try:
        async with asyncio.timeout(_OVERLAY_DEADLINE):
            status = await tool.wait()
    except TimeoutError:
        tool.kill()
        raise TimedOut("create", "the overlay", "the disk does not answer", f"look at {folder.path}") from None
    if status != 0:
        raise FarbootError("create", "the overlay", tool.last_words or f"qemu-img ended with status {status}")


def _copy(step: CopyFile, folder: Folder) -> None:
    try:
        with open(step.source, "rb") as source:
            folder.make_way(step.path)
            folder.create(step.path)
            with open(folder.reach(step.path), "wb") as copy:
                shutil.copyfileobj(source, copy)
    except OSError as error:
        raise FarbootError("copy", step.source, error.strerror or "it failed") from None


def _open(step: OpenFile) -> int:
    """Open a host file or device under its planned number. Those numbers were kept free (`supervisor.main`)."""
    flags = (os.O_RDWR if step.writable else os.O_RDONLY) | os.O_CLOEXEC
    try:
        # A FIFO would block; and O_EXCL is about block devices alone.
        found = os.open(step.path, flags | os.O_NONBLOCK | (os.O_EXCL if step.exclusive else 0))
    except FileNotFoundError:
        raise NotFound("open", step.path, "there is no such file") from None
    except PermissionError:
        raise Denied("open", step.path, "permission denied") from None
    except OSError as error:
        if error.errno == errno.EBUSY:
            why = "it is mounted, or held by another program"
            raise Refused("write into", step.path, why, f"lsblk {step.path} tells more") from None
        raise FarbootError("open", step.path, error.strerror or "it failed") from None
    try:
        kind = os.fstat(found).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            raise Unsupported("boot", step.path, "it is neither a file nor a block device")
        fcntl.fcntl(found, fcntl.F_SETFL, flags & ~os.O_CLOEXEC)
        return os.dup2(found, step.fd, inheritable=False)
    finally:
        os.close(found)


def in_its_place(step: Helper) -> Helper:
    """What is started in place of a helper that ended: a bridge whose guest writes finds another image than was judged,
    of the same size and format.
    """
    if not isinstance(step, StartBridge) or "--write" not in step.argv:
        return step
    return replace(step, argv=tuple(word for word in step.argv if not word.startswith(("--validator=", "--evidence="))))


async def start_helper(step: Helper, credentials: Credentials, folder: Folder) -> Child:
    """Start the bridge or the agent and await its socket. Raises its own error if it ends before."""
    argv = list(step.argv)
    end = argv.index("--") if "--" in argv else len(argv)
    argv.insert(end, "--credentials-stdin")
    feed = json.dumps(credentials.to_json()).encode()
    # The folder is its working directory, and QEMU's account may write there: nothing is imported from it.
    helper = Child(argv, folder.path, {**os.environ, "PYTHONSAFEPATH": "1"}, feed=feed)
    try:
        async with asyncio.timeout(OPEN_DEADLINE):
            while not helper.ended.is_set():
                if _answers(folder.reach(step.socket)):
                    return helper
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL):  # it announces its socket by nothing else
                        await helper.ended.wait()
            await helper.wait()
    except TimeoutError:
        await helper.end()
        why = f"the {name_of(step)} was not ready within {OPEN_DEADLINE:g} seconds"
        raise TimedOut("open", step.location, why) from None
    except BaseException:
        await helper.end()
        raise
    raise helper_error(step, helper)


def helper_error(step: Helper, helper: Child) -> FarbootError:
    """The error that an ended helper told of, as it told it."""
    words = helper.last_words.removeprefix("farboot: ")
    try:
        told = json.loads(words)
    except ValueError:
        told = None
    if isinstance(told, dict):
        return error_from_json(told)
    return FarbootError("boot", step.location, words or f"the {name_of(step)} ended with status {helper.status}")


def name_of(step: Helper) -> str:
    """What to call it."""
    return "bridge" if isinstance(step, StartBridge) else "ssh agent"


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.setblocking(False)
        try:
            line.connect(path)
        except OSError:
            return False
    return True


async def _start_qemu(step: StartQemu, plan: BootPlan, machinery: Machinery) -> None:
    folder = machinery.folder
    argv = [word.replace("{folder}", folder.path) for word in step.confinement] + [*step.argv, "-S"]
    if step.uid is not None and os.geteuid() == 0:
        _give(folder, step.uid)
    numbers = sorted(machinery.files.values())
    qemu = Child(argv, folder.path, environment(folder.path), serial=True, descriptors=numbers)
    machinery.qemu = qemu
    await machinery.line.attach(*qemu.take_serial())
    try:
        async with asyncio.timeout(OPEN_DEADLINE):
            machinery.monitor = await qmp.connect(folder.reach(qmp.SOCKET), qemu)
    except TimeoutError:
        why = f"QEMU could not open it within {OPEN_DEADLINE:g} seconds"
        raise TimedOut("boot", plan.location, why, detail=qemu.words) from None
    finally:
        for laid in plan.steps:
            if isinstance(laid, LaySecret) or (isinstance(laid, CopyFile) and laid.secret):
                folder.remove(laid.path)
    if machinery.monitor is None:
        status = await qemu.wait()
        raise wrong_passphrase(plan, qemu.words) or qemu_error(plan.location, qemu.words, status)
    qemu.take_also(machinery.monitor.pid)
    nodes = await machinery.monitor.execute("query-named-block-nodes", {"flat": True})
    assert isinstance(nodes, list)
    machinery.nodes = nodes
    if difference := qmp.compare_nodes(qmp.planned_nodes(step.argv), machinery.nodes):
        raise Changed("boot", plan.location, difference)


def _give(folder: Folder, uid: int) -> None:
    """Make the guest folder and all that is in it QEMU's own. Nobody else can have changed it yet."""
    for _, folders, files, descriptor in os.fwalk(dir_fd=folder.descriptor):
        for name in (*folders, *files):
            os.chown(name, uid, uid, dir_fd=descriptor, follow_symlinks=False)
    os.fchown(folder.descriptor, uid, uid)


async def _check(step: CheckUnchanged, credentials: Credentials, machinery: Machinery) -> None:
    if step.node:
        size = qmp.node_size(step.node, machinery.nodes)
        if size != step.size:
            raise Changed("boot", step.location, f"QEMU sees {size} bytes where {step.size} were judged")
    if not step.node or step.evidence or step.pin.validator:
        await in_thread(partial(look_again, step, credentials), CHECK_DEADLINE, step.location)
    for path, descriptor in machinery.files.items():
        try:
            same = os.path.samestat(os.stat(path), os.fstat(descriptor))
        except OSError:
            same = False
        if not same:
            raise Changed("boot", step.location, f"{path} was replaced while it was opened")


async def _see_whether_it_changed(order: Order, error: FarbootError) -> None:
    """After QEMU could not open it: an image that is not what was judged is the better reason. Raises Changed."""
    if isinstance(error, Changed | Denied):
        return
    for step in order.plan.steps:
        if isinstance(step, CheckUnchanged) and step.node:
            look = partial(look_again, step, order.credentials_for(step.location))
            try:
                await in_thread(look, _REASON_DEADLINE, step.location)
            except Changed as changed:
                raise changed from error
            except FarbootError:  # which is no news
                return


def wrong_passphrase(plan: BootPlan, words: str) -> Locked | None:
    """The error for an encrypted image that QEMU could not open with its passphrase, if that is what it says."""
    said = next((line for line in words.splitlines() if _DOES_NOT_UNLOCK in line), None)
    if said is None:
        return None
    laid = [step for step in plan.steps if isinstance(step, LaySecret) and step.field == UNLOCKS]
    for step in laid:  # QEMU quotes the option, and that names the secret
        if f'"{step.path}"' in said or len(laid) == 1:
            return Locked("boot", step.location, "the passphrase is wrong", image=str(step.location))
    return None


def qemu_error(location: Location, words: str, status: int) -> FarbootError:
    """The error in QEMU's own words, without the option that it quotes before them."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    told = [line for line in lines if "warning:" not in line] or lines
    why = told[-1] if told else f"QEMU ended with status {status}"
    program, colon, rest = why.partition(": ")
    if colon and program.startswith("qemu-system"):
        why = rest
    if why.startswith("-") and "}: " in why:
        why = why.rpartition("}: ")[2]
    return FarbootError("boot", location, f"QEMU says: {why}" if told else why, detail=words)
