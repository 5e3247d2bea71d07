"""Speaking to an ssh agent (draft-ietf-sshm-ssh-agent): which keys it has, and its signatures.

paramiko's own client waits for an agent without a bound.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from probes.errors import FarbootError
from probes.ssh.wire import MOST, Malformed, Packet, string, u32

FAILURE, REQUEST_IDENTITIES, IDENTITIES_ANSWER, SIGN_REQUEST, SIGN_RESPONSE = 5, 11, 12, 13, 14
RSA_SHA2_256, RSA_SHA2_512 = 2, 4
_MOST_KEYS = 1000


@dataclass(frozen=True)
class AgentKey:
    """A key that an agent holds: its public half, and what its owner calls it."""

    blob: bytes
    comment: str


def identities(path: str, seconds: float) -> list[AgentKey]:
    """Return the keys of the agent at the socket `path`, within `seconds`. Raises FarbootError."""
    with _told(path):
        answer = _ask(path, bytes([REQUEST_IDENTITIES]), seconds)
        if answer.u8() != IDENTITIES_ANSWER:
            raise Malformed("it does not list its keys")
        count = answer.u32()
        if count > _MOST_KEYS:
            raise Malformed("it says that it has too many keys")
        return [AgentKey(answer.string(), answer.text()) for _ in range(count)]


def sign(path: str, blob: bytes, data: bytes, flags: int, seconds: float) -> bytes:
    """Return the signature of `data` by the key `blob`, as SSH sends it. Raises FarbootError where it is refused."""
    with _told(path):
        request = bytes([SIGN_REQUEST]) + string(blob) + string(data) + u32(flags)
        answer = _ask(path, request, seconds)
        if answer.u8() != SIGN_RESPONSE:
            raise Malformed("it did not sign")
        return answer.string()


def flags_for(algorithm: str) -> int:
    """The flags of a signing request that lead to a signature by `algorithm`."""
    return {"rsa-sha2-256": RSA_SHA2_256, "rsa-sha2-512": RSA_SHA2_512}.get(algorithm.partition("-cert-")[0], 0)


def _ask(path: str, message: bytes, seconds: float) -> Packet:
    end = time.monotonic() + seconds

    def left() -> float:
        if (rest := end - time.monotonic()) <= 0:
            raise TimeoutError
        return rest

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(left())
        line.connect(path)
        line.sendall(string(message))
        length = int.from_bytes(_receive(line, 4, left), "big")
        if not 0 < length <= MOST:
            raise Malformed("its answer makes no sense")
        return Packet(_receive(line, length, left))


def _receive(line: socket.socket, count: int, left: Callable[[], float]) -> bytes:
    data = b""
    while len(data) < count:
        line.settimeout(left())
        if not (piece := line.recv(count - len(data))):
            raise Malformed("it hung up")
        data += piece
    return data


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise FarbootError("ask", f"the ssh agent at {path}", "it does not answer", "does it wait for a yes?") from None
    except OSError as error:
        raise FarbootError("ask", f"the ssh agent at {path}", error.strerror or "it cannot be reached") from None
    except Malformed as error:
        raise FarbootError("ask", f"the ssh agent at {path}", str(error)) from None
