"""The control socket of a session: how TUIs and commands, any number, speak to the supervisor.

A client sends one JSON object on one line and gets one back, or `{"error": …}`. After `console` the connection is the
serial line itself, both ways, beginning with what was last said on it. A client that does not read is dropped:
neither the guest nor the others wait for it.
"""

import asyncio
import base64
import json
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Protocol

from app.qemu.sessions.serial import HISTORY, SerialLine
from app.qemu.sessions.wire import error_to_json, to_line
from probes.errors import FarbootError

MOST_CONSOLES = 64
MOST_CLIENTS = 128
SLOWEST = 1 << 20
"""Bytes that a console may be behind before it is dropped."""
_REQUEST_LIMIT = 64 << 10
_REQUEST_PATIENCE = 10.0
_FAREWELL = 1.0


class Guest(Protocol):
    """What the control socket controls."""

    line: SerialLine
    over: asyncio.Event

    async def stop(self, force: bool) -> None:
        """End the guest; return when it is gone."""
        ...

    async def screen(self) -> bytes:
        """Give its screen as PNG."""
        ...


class ControlServer:
    """Serves one guest's control socket, in the supervisor's event loop."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._consoles = 0

    async def start(self, listening: socket.socket) -> None:
        """Serve on a bound socket."""
        self._server = await asyncio.start_unix_server(self._meet, sock=listening, limit=_REQUEST_LIMIT)

    async def close(self) -> None:
        """Let the clients have what is theirs, for a moment, and hang up."""
        if self._server is not None:
            self._server.close()
        if self._clients:
            await asyncio.wait(self._clients, timeout=_FAREWELL)
        for client in self._clients:
            client.cancel()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) > MOST_CLIENTS:
                raise FarbootError("talk to", "the guest", f"{MOST_CLIENTS} others do already")
            async with asyncio.timeout(_REQUEST_PATIENCE):
                request = json.loads(await reader.readline())
            await self._serve(request, reader, writer)
        except FarbootError as error:
            writer.write(to_line({"error": error_to_json(error)}))
        except (ValueError, KeyError, TypeError, TimeoutError, OSError):
            pass  # no client of ours, or one that is gone
        finally:
            self._clients.discard(task)
            with suppress(OSError, TimeoutError):
                writer.close()
                async with asyncio.timeout(_FAREWELL):
                    await writer.wait_closed()
            writer.transport.abort()

    async def _serve(
        self, request: dict[str, object], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        match request["command"]:
            case "stop":
                await self._guest.stop(force=request.get("force") is True)
                writer.write(to_line({}))
            case "screen":
                picture = await self._guest.screen()
                writer.write(to_line({"png": base64.b64encode(picture).decode()}))
                await writer.drain()
            case "wait":
                found = await self._wait(str(request["text"]), float(str(request["timeout"])), reader)
                writer.write(to_line({"found": found, "over": self._guest.over.is_set()}))
            case "console":
                await self._console(reader, writer)
            case _:
                raise FarbootError("ask", "the supervisor", "it does not know that: it is of another Farboot")

    async def _wait(self, text: str, patience: float, reader: asyncio.StreamReader) -> bool:
        said = self._guest.line.wait_for(text.encode("utf-8", "surrogateescape"))
        return await _first(said, self._guest.over.wait(), _gone(reader), patience=patience)

    async def _console(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._consoles >= MOST_CONSOLES:
            raise FarbootError("open a console of", "the guest", f"{MOST_CONSOLES} are open already")
        transport = writer.transport

        def show(data: bytes) -> None:
            if transport.get_write_buffer_size() > SLOWEST:
                transport.abort()
            elif not transport.is_closing():
                writer.write(data)

        async def pass_keys() -> None:
            with suppress(OSError):
                while data := await reader.read(4096):
                    await self._guest.line.type(data)

        writer.write(to_line({}) + self._guest.line.log.tail(HISTORY))
        forget = self._guest.line.listen(show)
        self._consoles += 1
        try:
            await _first(pass_keys(), self._guest.over.wait())
        finally:
            self._consoles -= 1
            forget()


async def _first(*awaited: Coroutine[object, object, object], patience: float | None = None) -> bool:
    """Wait `patience` seconds until one of `awaited` is done, and end the others; whether the first one was."""
    tasks = [asyncio.ensure_future(one) for one in awaited]
    try:
        await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].done()
    finally:
        for task in tasks:
            task.cancel()


async def _gone(reader: asyncio.StreamReader) -> None:
    """Return when the client has hung up."""
    with suppress(OSError):
        while await reader.read(4096):
            pass
