"""The family of errors a person may see.

Each says what was tried, on what, why it failed, and what to do next. Their texts are cleaned when they are
made, for much of a reason is a server's own words. They travel between processes by pickle.
"""

from typing import ClassVar

from probes.text import clean

_LONGEST = 2000  # characters that are still read; a server may send megabytes
_LONGEST_DETAIL = 20_000


class FarbootError(Exception):
    """Something a person asked for could not be done.

    `tried` is what was attempted ("list the pools"), `on` the thing it was attempted on (a location, a file),
    `why` the reason, `hint` what to do next, `detail` the long form that `--verbose` adds.
    """

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[int] = 1

    def __init__(self, tried: str, on: object, why: str, hint: str = "", detail: str = "") -> None:
        self.tried = _one_line(tried)
        self.on = clean(str(on), _LONGEST)
        self.why = _one_line(why).rstrip(".")
        self.hint = _one_line(hint)
        self.detail = _one_line(detail, _LONGEST_DETAIL)
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"cannot {self.tried} {self.on}: {self.why}"
        return f"{text} ({self.hint})" if self.hint else text

    def __reduce__(self) -> tuple[type["FarbootError"], tuple[object, ...]]:
        return type(self), (self.tried, self.on, self.why, self.hint, self.detail)

    def as_json(self) -> dict[str, str]:
        """The error as an object for `--json`."""
        return {
            "error": self.code,
            "message": str(self),
            "tried": self.tried,
            "on": self.on,
            "why": self.why,
            "hint": self.hint,
        }


class BadLocation(FarbootError):
    """The text is not a location that Farboot understands."""

    code = "bad-location"
    exit_status = 2


class Unreachable(FarbootError):
    """Nobody answers there, or the connection broke."""

    code = "unreachable"


class TimedOut(FarbootError):
    """No answer within the deadline."""

    code = "timed-out"


class Denied(FarbootError):
    """The server, or the host, does not let us in.

    `wants` names the `Credentials` fields that could open it: the TUI and the command line ask for those.
    """

    code = "denied"

    def __init__(
        self,
        tried: str,
        on: object,
        why: str,
        hint: str = "",
        detail: str = "",
        wants: tuple[str, ...] = (),
    ) -> None:
        self.wants = wants
        super().__init__(tried, on, why, hint, detail)

    def __reduce__(self) -> tuple[type[FarbootError], tuple[object, ...]]:
        return type(self), (self.tried, self.on, self.why, self.hint, self.detail, self.wants)


class UnknownHostKey(Denied):
    """The server shows a key that nobody vouches for: a person may, after comparing the fingerprint.

    `fingerprint` is as OpenSSH prints it ("SHA256:…") and goes into `Credentials.host_key` after a yes; `key_type` is
    its kind ("ssh-ed25519").
    """

    code = "unknown-host-key"

    def __init__(self, tried: str, on: object, why: str, hint: str = "", detail: str = "", *rest: str) -> None:
        self.fingerprint, self.key_type = rest if len(rest) == 2 else ("", "")
        super().__init__(tried, on, why, hint, detail, wants=("host_key",))

    def __reduce__(self) -> tuple[type[FarbootError], tuple[object, ...]]:
        words = (self.tried, self.on, self.why, self.hint, self.detail)
        return type(self), (*words, self.fingerprint, self.key_type)


class Locked(Denied):
    """The image is encrypted, and its passphrase is not known, or wrong. `image` is its location, as text: of a chain
    it may be a backing image.
    """

    code = "locked"

    def __init__(self, tried: str, on: object, why: str, hint: str = "", detail: str = "", image: str = "") -> None:
        self.image = image or str(on)
        super().__init__(tried, on, why, hint, detail, wants=("image_passphrase",))

    def __reduce__(self) -> tuple[type[FarbootError], tuple[object, ...]]:
        return type(self), (self.tried, self.on, self.why, self.hint, self.detail, self.image)


class NotFound(FarbootError):
    """There is no such thing at that place."""

    code = "not-found"


class NotAContainer(FarbootError):
    """The location is an image or a file: it has no entries."""

    code = "not-a-container"


class NotAnImage(FarbootError):
    """The location is a container: it can be listed, not read or booted."""

    code = "not-an-image"


class BadAnswer(FarbootError):
    """The server answered something that the protocol does not allow, or that makes no sense."""

    code = "bad-answer"


class Changed(FarbootError):
    """The image is not the one that was looked at: its size, validator or first bytes differ."""

    code = "changed"


class Unsupported(FarbootError):
    """Understood, but this machine, this QEMU or this Farboot cannot do it."""

    code = "unsupported"


class NotFetched(Unsupported):
    """It cannot be read in the middle where it lies: it has to be fetched whole first (`probes.source.Fetches`).

    `size` is how many bytes that takes, where it is known.
    """

    code = "not-fetched"

    def __init__(
        self, tried: str, on: object, why: str, hint: str = "", detail: str = "", size: int | None = None
    ) -> None:
        self.size = size
        super().__init__(tried, on, why, hint, detail)

    def __reduce__(self) -> tuple[type[FarbootError], tuple[object, ...]]:
        return type(self), (self.tried, self.on, self.why, self.hint, self.detail, self.size)


class MissingClient(FarbootError):
    """A client library or a program is not installed; the hint names the package that brings it."""

    code = "missing-client"


class Refused(FarbootError):
    """Farboot will not boot it, because of what the image is."""

    code = "refused"
    exit_status = 3


class Cancelled(FarbootError):
    """The person stopped it."""

    code = "cancelled"


class Crashed(FarbootError):
    """A helper process ended without an answer."""

    code = "crashed"


def _one_line(text: str, limit: int = _LONGEST) -> str:
    lines = (line.strip() for line in text[: 2 * limit].split("\n"))
    return clean("; ".join(line for line in lines if line), limit)
