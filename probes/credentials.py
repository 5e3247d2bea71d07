"""What proves who we are: held in memory beside a Location, never in it, never shown.

`Secret` keeps its text out of `repr`, of f-strings and of log lines; only `reveal()` gives it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace


class Secret:
    """A text that does not print itself."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the secret itself: only to hand it to a client library or to a secret file."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> tuple[type["Secret"], tuple[str]]:
        return Secret, (self._text,)


@dataclass(frozen=True)
class Credentials:
    """Everything that may open a location. All of it is optional.

    `username` is not secret but travels with the password; where it is part of an address (ssh, ftp, iscsi)
    the Location holds it too. `key` is a cephx key in base64, or a TLS pre-shared key in hex. `passphrase` opens
    an ssh key. `host_key` is the fingerprint ("SHA256:…", as OpenSSH prints it) of a server's key that the person said
    yes to. `query` is the signed query of a URL, without its `?`. `cookie` is a whole Cookie header. `ca_file` is the
    path of a PEM file that also vouches for servers, `client_cert` and `client_key` those of our own certificate.
    `image_passphrase` opens an encrypted image: no storage is ever told it.
    """

    username: str | None = None
    password: Secret | None = None
    key: Secret | None = None
    query: Secret | None = None
    cookie: Secret | None = None
    ca_file: str | None = None
    passphrase: Secret | None = None
    host_key: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    image_passphrase: Secret | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) is not None for field in fields(self))

    def over(self, other: "Credentials") -> "Credentials":
        """These credentials, with what they lack taken from `other`."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(other, **own)

    def secrets(self) -> tuple[Secret, ...]:
        """The secrets among them, for whoever must keep them out of a text."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value for value in values if isinstance(value, Secret))

    def to_json(self) -> dict[str, str]:
        """These credentials, secrets revealed, as an object for a helper's standard input: never for a file, a log or
        an argument.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value.reveal() if isinstance(value, Secret) else value
            for name, value in values.items()
            if value is not None
        }

    @staticmethod
    def from_json(values: Mapping[str, object]) -> "Credentials":
        """What `to_json` gave, as credentials. Raises ValueError for a field or a value that it never gives."""
        unknown = set(values) - {field.name for field in fields(Credentials)}
        if unknown or not all(isinstance(value, str) for value in values.values()):
            raise ValueError("not credentials")
        texts = {name: str(value) for name, value in values.items()}
        secret = {name: Secret(text) for name, text in texts.items()}
        return Credentials(
            username=texts.get("username"),
            password=secret.get("password"),
            key=secret.get("key"),
            query=secret.get("query"),
            cookie=secret.get("cookie"),
            ca_file=texts.get("ca_file"),
            passphrase=secret.get("passphrase"),
            host_key=texts.get("host_key"),
            client_cert=texts.get("client_cert"),
            client_key=texts.get("client_key"),
            image_passphrase=secret.get("image_passphrase"),
        )


NO_CREDENTIALS = Credentials()
