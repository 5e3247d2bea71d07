"""What the agent answers: draft-ietf-sshm-ssh-agent, section 3, as far as QEMU's libssh needs it."""

from collections.abc import Callable
from dataclasses import dataclass

from probes.ssh.agents import FAILURE, IDENTITIES_ANSWER, REQUEST_IDENTITIES, SIGN_REQUEST, SIGN_RESPONSE
from probes.ssh.line import USERAUTH_REQUEST
from probes.ssh.wire import Malformed, Packet, string, u32

REFUSED = bytes([FAILURE])
_LONGEST_SESSION_ID = 64  # a SHA-512


@dataclass(frozen=True)
class OneKey:
    """The key `blob`, with which `user` may log in. `sign` takes data and an algorithm, and returns the signature."""

    blob: bytes
    user: bytes
    sign: Callable[[bytes, str], bytes]

    def asked_to_sign(self, message: bytes) -> tuple[bytes, str] | None:
        """What `message` asks us to sign, and by which algorithm; None if it is not such a request, or not granted.

        Only what logs this user in by this key is ever signed (RFC 4252, section 7): a request to sign anything else
        is not libssh's.
        """
        try:
            packet = Packet(message)
            if packet.u8() != SIGN_REQUEST or packet.string() != self.blob:
                return None
            data = packet.string()
            packet.u32()  # flags: the algorithm stands in the data as well
            algorithm = self._algorithm(data) if packet.ended else ""
        except Malformed:
            return None
        return (data, algorithm) if algorithm else None

    def answer(self, message: bytes) -> bytes:
        """The answer to anything but a granted request to sign."""
        if message == bytes([REQUEST_IDENTITIES]):
            return bytes([IDENTITIES_ANSWER]) + u32(1) + string(self.blob) + string(b"farboot")
        return REFUSED

    def signed(self, data: bytes, algorithm: str) -> bytes:
        """The answer to a granted request to sign. Raises what signing raises."""
        return bytes([SIGN_RESPONSE]) + string(self.sign(data, algorithm))

    def _algorithm(self, data: bytes) -> str:
        """The signature algorithm of a log-in request, or "" if `data` is none, or another's."""
        packet = Packet(data)
        session = packet.string()
        request = (packet.u8(), packet.string(), packet.string(), packet.string(), packet.u8())
        algorithm, blob = packet.string(), packet.string()
        expected = (USERAUTH_REQUEST, self.user, b"ssh-connection", b"publickey", 1)
        if not 0 < len(session) <= _LONGEST_SESSION_ID or request != expected or blob != self.blob or not packet.ended:
            return ""
        kind = Packet(self.blob).string()
        fitting = (b"rsa-sha2-256", b"rsa-sha2-512") if kind == b"ssh-rsa" else (kind,)
        return algorithm.decode("ascii") if algorithm in fitting else ""
