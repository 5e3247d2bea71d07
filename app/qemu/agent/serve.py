"""The agent's process: a Unix socket in the guest's folder, on which QEMU finds the one key that it may use.

QEMU's own account can neither reach the person's agent nor read the person's keys. Here the person's agent is asked, or
the key file is used, for that key alone; and however QEMU came to be another's, nothing but log-ins of that user can be
had from it.
"""

import asyncio
import contextlib
import signal

from app.qemu.agent.answers import REFUSED, OneKey
from app.qemu.helper import die_with_parent, listening
from app.qemu.workers import Workers
from probes.credentials import Credentials
from probes.errors import FarbootError, NotFound
from probes.location import Location
from probes.ssh.config import resolve
from probes.ssh.identities import Identity, candidates, load
from probes.ssh.wire import raw, string

LONGEST = 64 << 10
"""Bytes of a request; a log-in request has some 1,000."""
AT_ONCE = 4
"""Connections and signatures; libssh uses one."""
SIGNING = 55.0
"""Seconds that the person's agent may take: somebody may have to touch something. QEMU waits 60."""
_LOOKING = 5.0


def serve(
    location: Location, credentials: Credentials, socket_path: str, key: str, *, parent: int | None = None
) -> None:
    """Serve the key with the fingerprint `key`, which lets us in at `location`, on `socket_path`, until SIGTERM, SIGINT
    or SIGHUP, or until the parent dies.

    Raises before the socket exists: NotFound if the key is no longer there, Denied if its passphrase is missing or
    wrong. As soon as the socket exists it answers: everyone who reaches it if its folder keeps others out (under root
    QEMU is another account), else only this account. `parent` is the process that must still be the parent; by default
    it is the one found. For the main thread of a process of its own, whose signals it takes.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is a socket there is nothing to clear
    die_with_parent(parent, "the ssh agent")
    asyncio.run(_serve_until_told(socket_path, one_key(location, credentials, key)))


def one_key(location: Location, credentials: Credentials, key: str) -> OneKey:
    """Find the key with the fingerprint `key` among those that ssh would try at `location`. Raises as `serve` does."""
    target = resolve(location.host, location.port, location.user or credentials.username)
    found, trouble = candidates(target, _LOOKING)
    identity = next((one for one in found if one.fingerprint == key), None)
    if identity is None:
        hint = trouble or "is the ssh agent still there, and does it still hold the key?"
        raise NotFound("use", f"the ssh key {key}", f"nobody has it who could sign for {location}", hint)
    if not identity.agent:
        load(identity.path, credentials.passphrase)
    return OneKey(
        identity.blob, raw(target.user), lambda data, algorithm: _sign(identity, data, algorithm, credentials)
    )


def _sign(identity: Identity, data: bytes, algorithm: str, credentials: Credentials) -> bytes:
    return identity.sign(data, algorithm, credentials.passphrase, SIGNING)


async def _serve_until_told(socket_path: str, key: OneKey) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    workers, room = Workers(AT_ONCE), asyncio.Semaphore(AT_ONCE)
    conversations: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with room:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await _converse(reader, writer, key, workers)
        writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(talk(reader, writer))
        conversations.add(task)
        task.add_done_callback(conversations.discard)

    with listening(socket_path) as listener:
        server = await asyncio.start_unix_server(begin, sock=listener)
        await told.wait()
        server.close()
    for task in conversations:
        task.cancel()


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: OneKey, workers: Workers) -> None:
    while True:
        length = int.from_bytes(await reader.readexactly(4), "big")
        if not 0 < length <= LONGEST:
            return
        message = await reader.readexactly(length)
        granted = key.asked_to_sign(message)
        if granted is None:
            answer = key.answer(message)
        else:
            try:
                answer = await workers.run(key.signed, *granted)
            except FarbootError:  # libssh cannot be told more than that
                answer = REFUSED
        writer.write(string(answer))
        await writer.drain()
