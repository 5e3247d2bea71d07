"""A guest's serial line at this terminal, both ways, until Ctrl-] or the guest's end."""

import contextlib
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator

from app.cli.output import DONE, tell
from app.qemu.sessions.session import console

LEAVE = b"\x1d"  # Ctrl-], as in telnet and virsh


def talk(session_id: str) -> int:
    """Join the terminal and the serial line.

    The guest's own escape sequences reach the terminal: that is the point of a console, and why this is never done
    without being asked for.
    """
    with console(session_id) as line, _raw_terminal() as keys:
        if keys is not None:
            tell(f"connected to {session_id}; Ctrl-] leaves, the guest goes on\r")
        _join(line, keys)
    tell(f"left {session_id}")
    return DONE


def _join(line: socket.socket, keys: int | None) -> None:
    watched: list[int | socket.socket] = [line] if keys is None else [line, keys]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if line in ready:
            data = line.recv(65536)
            if not data:
                return
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        if keys is not None and keys in ready:
            typed = os.read(keys, 1024)
            before, left, _ = typed.partition(LEAVE)
            if before:
                line.sendall(before)
            if left:
                return
            if not typed:  # the input ended; the guest may still talk
                watched.remove(keys)
                keys = None


@contextlib.contextmanager
def _raw_terminal() -> Iterator[int | None]:
    """Give the standard input's descriptor, unbuffered and without echo if it is a terminal."""
    try:
        keys = sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):
        yield None
        return
    if not os.isatty(keys):
        yield keys
        return
    before = termios.tcgetattr(keys)
    try:
        tty.setraw(keys)
        yield keys
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)
