"""What fails on a connection to an FTP server: as the family's errors, and as what only this package knows."""

import contextlib
import ssl
from collections.abc import Iterator

from probes.errors import FarbootError, Unreachable
from probes.ftp.replies import Reply
from probes.network.call import Call


class HungUp(Exception):
    """The server ended the connection: nothing was answered, and another connection may do better."""

    def __init__(self, call: Call, said: str = "") -> None:
        self.call = call
        self.said = said
        super().__init__(said)

    def as_unreachable(self) -> Unreachable:
        why = f'the server hung up: "{self.said}"' if self.said else "the server hung up without an answer"
        return Unreachable(self.call.tried, self.call.on, why, "does it speak this protocol?")


class ReplyError(Exception):
    """The server refused a command of a transfer: `reply` says how."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        super().__init__(reply.code)


class Full(Exception):
    """The server takes no more connections from us."""

    def __init__(self, call: Call, said: str) -> None:
        self.call = call
        self.said = said
        super().__init__(said)

    def as_unreachable(self) -> Unreachable:
        why = f'the server takes no more connections: "{self.said}"'
        return Unreachable(self.call.tried, self.call.on, why, "try again later, or raise its limit for this address")


@contextlib.contextmanager
def translated(call: Call) -> Iterator[None]:
    """Turn what goes wrong on a socket into the family, or into HungUp."""
    try:
        yield
    except FarbootError:
        raise
    except EOFError:
        call.remaining()
        raise HungUp(call) from None
    except ssl.SSLCertVerificationError as error:
        raise call.untrusted(error) from None
    except ssl.SSLError as error:
        call.remaining()
        if "EOF" in str(error):
            raise HungUp(call) from None
        why = f"TLS failed: {error.reason or 'no reason was given'}"
        raise NoTls(call.tried, call.on, why, "is TLS spoken on this port?") from None
    except ConnectionError:
        call.remaining()
        raise HungUp(call) from None
    except OSError as error:
        raise call.unreachable(error) from None


class NoTls(Unreachable):
    """The server did not answer a TLS greeting with one."""
