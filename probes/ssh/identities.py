"""The keys that may let us in, and signing with them: those of an agent and those in files.

The order is OpenSSH's: keys of the agent that the configuration names, the agent's others, then files. A file's public
half is read without its passphrase, so a server can be asked about a key before anyone is asked to unlock it.
"""

import base64
import binascii
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from probes.credentials import Secret
from probes.errors import Denied, FarbootError
from probes.ssh.agents import flags_for, identities, sign
from probes.ssh.config import Target
from probes.ssh.known_hosts import fingerprint
from probes.ssh.wire import Malformed, Packet

if TYPE_CHECKING:
    import paramiko

_LARGEST = 1 << 20
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_CERTIFICATE = "-cert-v01@openssh.com"
_KNOWN = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


@dataclass(frozen=True)
class Identity:
    """A key to try: its public half `blob` (or its certificate), and where the private one is: in the agent at the
    socket `agent`, or else in the file `path`.
    """

    blob: bytes
    path: str = ""
    agent: str = ""
    comment: str = ""

    @property
    def kind(self) -> str:
        """The key's type, such as "ssh-ed25519"."""
        return _kind(self.blob)

    @property
    def is_certificate(self) -> bool:
        return self.kind.endswith(_CERTIFICATE)

    @property
    def fingerprint(self) -> str:
        """As OpenSSH prints it."""
        return fingerprint(self.blob)

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return self.path or f"{self.comment or self.fingerprint} (agent)"

    def algorithm(self, offered: Sequence[str]) -> str:
        """The signature algorithm to use where the server names those that it takes ("server-sig-algs")."""
        if not self.kind.startswith("ssh-rsa"):
            return self.kind
        suffix = self.kind.removeprefix("ssh-rsa")
        first = next((name for name in ("rsa-sha2-512", "rsa-sha2-256") if name in offered), "rsa-sha2-512")
        return first + suffix

    def sign(self, data: bytes, algorithm: str, passphrase: Secret | None, seconds: float) -> bytes:
        """Return the signature of `data` as SSH sends it. Raises Denied for a passphrase that is missing or wrong, and
        FarbootError.
        """
        if self.agent:
            return sign(self.agent, self.blob, data, flags_for(algorithm), seconds)
        key = load(self.path, passphrase)
        signature: bytes = key.sign_ssh_data(data, algorithm.partition(_CERTIFICATE)[0]).asbytes()
        return signature


def candidates(target: Target, seconds: float) -> tuple[list[Identity], str]:
    """Return the keys to try at `target`, best first; and what is wrong with the agent, if it says nothing within
    `seconds`.
    """
    files = [found for path in target.keys for found in _in_file(path, target.certificates)]
    named = [identity.blob for identity in files]
    trouble = ""
    try:
        held = identities(target.agent, seconds) if target.agent else []
    except FarbootError as error:
        held, trouble = [], f"{error.on}: {error.why}"
    from_agent = [Identity(key.blob, agent=target.agent, comment=key.comment) for key in held if _kind(key.blob)]
    of_agent = {identity.blob for identity in from_agent}
    chosen = [identity for identity in from_agent if identity.blob in named]
    others = [] if target.only_keys else [identity for identity in from_agent if identity.blob not in named]
    from_files = [one for one in files if one.blob not in of_agent and not one.path.endswith(".pub")]
    return [*chosen, *others, *from_files], trouble


def load(path: str, passphrase: Secret | None) -> "paramiko.PKey":
    """Load the private key in the file `path`.

    Raises Denied, which wants a passphrase where that is missing or wrong, and FarbootError.
    """
    import paramiko

    text = _read(path).decode("ascii", "replace")
    word = passphrase.reveal() if passphrase else None
    for kind in (paramiko.Ed25519Key, paramiko.RSAKey, paramiko.ECDSAKey):
        try:
            return kind.from_private_key(io.StringIO(text), word)
        except paramiko.PasswordRequiredException:
            raise _locked(path, "it is locked by a passphrase") from None
        except Exception:  # noqa: BLE001, S112  whatever the three readers and the cryptography below them make of a wrong passphrase
            continue
    if word is not None:
        raise _locked(path, "the passphrase is wrong, or it is no key that Farboot knows")
    raise FarbootError("use", f"the ssh key {path}", "it is no key that Farboot knows", "ssh-add it to an agent")


def _locked(path: str, why: str) -> Denied:
    return Denied("use", f"the ssh key {path}", why, "or ssh-add it to an agent", wants=("passphrase",))


def _in_file(path: str, certificates: Sequence[str]) -> Iterator[Identity]:
    """The certificates for the key in `path`, then the key itself; nothing if it cannot be used."""
    blob = _public_line(path) or _public_line(f"{path}.pub") or _openssh_public(path) or _loaded_public(path)
    if not blob:
        return
    for certificate in (f"{path}-cert.pub", *certificates):
        signed = _public_line(certificate)
        if signed and _kind(signed).endswith(_CERTIFICATE) and _holds(signed, blob):
            yield Identity(signed, path=path)
    yield Identity(blob, path=path)


def _holds(certificate: bytes, blob: bytes) -> bool:
    """Whether the certificate is for that key: both begin with their kind, the one goes on with a nonce."""
    try:
        signed, plain = Packet(certificate), Packet(blob)
        signed.string(), signed.string(), plain.string()
        rest = plain.data[plain.offset :]
        return signed.take(len(rest)) == rest
    except Malformed:
        return False


def _public_line(path: str) -> bytes:
    words = _read(path, quietly=True).split(None, 2)
    try:
        blob = base64.b64decode(words[1], validate=True) if len(words) > 1 else b""
    except (binascii.Error, ValueError):
        return b""
    return blob if _kind(blob) else b""


def _openssh_public(path: str) -> bytes:
    """The public half that OpenSSH's own format holds in the clear (PROTOCOL.key)."""
    text = _read(path, quietly=True)
    if not text.startswith(_OPENSSH):
        return b""
    try:
        packet = Packet(base64.b64decode(b"".join(text.splitlines()[1:-1])))
        if packet.take(15) != b"openssh-key-v1\0":
            return b""
        packet.string(), packet.string(), packet.string()
        blob = packet.string() if packet.u32() == 1 else b""
    except (binascii.Error, ValueError):
        return b""
    return blob if _kind(blob) else b""


def _loaded_public(path: str) -> bytes:
    """The public half of an old PEM file that has no `.pub` beside it: only without a passphrase."""
    if not _read(path, quietly=True).startswith(b"-----BEGIN"):
        return b""
    try:
        blob: bytes = load(path, None).asbytes()
    except FarbootError:
        return b""
    return blob


def _kind(blob: bytes) -> str:
    """The type of a public key, empty for what is none that could be used here (security keys sign otherwise)."""
    try:
        kind = Packet(blob).string().decode("ascii", "replace")
    except Malformed:
        return ""
    return kind if kind.removesuffix(_CERTIFICATE) in _KNOWN else ""


def _read(path: str, quietly: bool = False) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        if quietly:
            return b""
        raise FarbootError("read", f"the ssh key {path}", error.strerror or "it failed") from None
