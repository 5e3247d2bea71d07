"""The process that looks after one guest: `python -m app.qemu.sessions.supervisor`, started by `session.launch`.

It is the parent of QEMU and its helpers, the only client of QEMU's monitor and serial line, and serves the session's
control socket. It reads its order (plan, secrets, credentials) from its standard input and reports once on its
standard output: the running session, or the error. From then on nobody needs to be there.
"""

import asyncio
import fcntl
import json
import logging
import logging.handlers
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from app.qemu.sessions import control, folders
from app.qemu.sessions.folders import Folder
from app.qemu.sessions.guest import Guest, log
from app.qemu.sessions.start import Order
from app.qemu.sessions.wire import SessionInfo, error_to_json, plan_from_json, to_line
from probes.credentials import Credentials, Secret
from probes.errors import Crashed, FarbootError, Refused

_PLANNED_NUMBERS = range(3, 64)
"""Descriptor numbers that plans may use for host files: kept free of anything else."""
_ORDER_LIMIT = 16 << 20
_LOG_LIMIT = 128 << 10


async def supervise(order: Order, report: int) -> None:
    """Start the guest, report on the descriptor `report`, and stay until it ends. Raises nothing."""
    try:
        guest, listening = _settle(order)
    except FarbootError as error:
        _report(report, {"error": error_to_json(error)})
        return
    server = control.ControlServer(guest)
    await server.start(listening)
    loop = asyncio.get_running_loop()
    ending: set[asyncio.Task[None]] = set()
    loop.add_signal_handler(signal.SIGTERM, lambda: ending.add(asyncio.ensure_future(guest.stop(force=False))))
    launcher_gone = asyncio.Event()
    loop.add_reader(report, launcher_gone.set)  # the reading end of a pipe going away wakes its writing end
    try:
        await guest.start(launcher_gone)
    except FarbootError as error:
        loop.remove_reader(report)
        await guest.clear()
        guest.over.set()
        await server.close()
        guest.line.close()
        with folders.runtime_root() as root:
            folders.remove_tree(root, guest.info.id)
        _report(report, {"error": error_to_json(error)})
        return
    loop.remove_reader(report)
    _report(report, {"session": guest.info.to_json()})
    await guest.live()
    await server.close()
    guest.line.close()


def _settle(order: Order) -> tuple[Guest, socket.socket]:
    """Make the session's and the guest's folders, under one name, and bind the control socket."""
    plan = order.plan
    with (
        folders.runtime_root() as runtime,
        folders.state_root() as states,
        folders.create_locked(runtime) as (session, show_session),
        folders.create_locked(states) as (guest, show_guest),
    ):
        _keep_log(session)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(session.reach(folders.CONTROL))
        listening.listen(control.MOST_CLIENTS)
        info = SessionInfo("", str(plan.location), plan.location.title, started=time.time())
        info = replace(info, format=plan.format, route=plan.route, mode=plan.mode)
        info = replace(info, memory=plan.memory, cpus=plan.cpus, network=plan.network)
        info = replace(info, backing=tuple(map(str, plan.backing)))
        while True:
            identity = folders.invent_id(info.name)
            here, there = f"{runtime.path}/{identity}", f"{states.path}/{identity}"
            info = replace(info, id=identity, folder=there, vnc=f"{there}/vnc.sock", log=f"{here}/{folders.LOG}")
            session.write(folders.STATE, to_line(info.to_json()))
            if not os.path.lexists(there) and show_session(identity):
                break
        if not show_guest(identity):
            raise Refused("use the folder", there, "somebody else meddles with it")
    return Guest(order, session, guest, info), listening


def _keep_log(session: Folder) -> None:
    handler = logging.handlers.RotatingFileHandler(session.reach("supervisor.log"), maxBytes=_LOG_LIMIT, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _report(descriptor: int, values: Mapping[str, object]) -> None:
    """Say how the start went; the launcher may have gone."""
    with suppress(OSError):
        os.write(descriptor, to_line(values))
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)


def _read_order() -> Order:
    values = json.loads(sys.stdin.buffer.read(_ORDER_LIMIT))
    secrets = {str(path): Secret(str(text)) for path, text in values["secrets"].items()}
    return Order(plan_from_json(values["plan"]), secrets, Credentials.from_json(values["credentials"]))


def _keep_numbers_free() -> None:
    """Occupy the descriptor numbers that the plan may use, before asyncio or anything else takes them."""
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for number in _PLANNED_NUMBERS:
        try:
            fcntl.fcntl(number, fcntl.F_GETFD)
        except OSError:
            os.dup2(nothing, number, inheritable=False)


def main() -> None:
    """Leave the launcher, and supervise."""
    if os.fork():
        os._exit(0)  # so that the guest has no parent that must reap it
    _keep_numbers_free()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # it would hold secrets
    os.chdir("/")
    try:
        order = _read_order()
    except (ValueError, KeyError, TypeError, AttributeError):
        _report(
            1, {"error": error_to_json(Crashed("boot", "the guest", "its supervisor did not understand the order"))}
        )
        return
    try:
        asyncio.run(supervise(order, 1))
    except Exception:
        log.exception("the supervisor failed")  # the only place where it could be told
        raise


if __name__ == "__main__":
    main()
