"""Being let in: through jump hosts, past a host key that somebody vouches for, by a key or a password.

No more is tried than servers allow (MaxAuthTries is 6). A password goes to the host that was asked for, never to one
that is jumped through, and only after its host key was found good.
"""

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import paramiko

from probes.credentials import Credentials, Secret
from probes.errors import Denied, FarbootError, MissingClient, UnknownHostKey, Unreachable
from probes.network.call import Call
from probes.ssh.config import Target, parse_jump, resolve
from probes.ssh.identities import Identity, candidates
from probes.ssh.known_hosts import Line as KnownLine
from probes.ssh.known_hosts import Verdict, fingerprint, host_names, judge, lines_for, remember_host_key
from probes.ssh.line import HOST_KEY_ORDER, KEEPALIVE, Line, Reply
from probes.ssh.wire import Packet, raw, string
from probes.text import shell_word

MOST_TRIES = 6
_DEEPEST = 8
_ROUNDS = 4
_AGENT_SECONDS = 5.0
_BY_PASSWORD = ("password", "keyboard-interactive")


@dataclass(frozen=True)
class Login:
    """By what we were let in: "none", "publickey" (with `identity`), or something with a password in it."""

    method: str
    identity: Identity | None = None


@dataclass
class Connection:
    """A host that has let us in, and all that it takes to reach it."""

    target: Target
    line: Line
    login: Login
    closers: list[Callable[[], object]] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return bool(self.line.is_active())

    def close(self) -> None:
        """Let go of it, from any thread."""
        for closes in reversed(self.closers):
            with contextlib.suppress(OSError, EOFError):
                closes()

    def remember_host_key(self) -> str:
        """Write the host's key into the first known_hosts file, and return its path. Raises FarbootError."""
        target, blob = self.target, self.line.shown_key
        if not target.known_hosts:
            raise FarbootError("remember", f"the host key of {target.host}", "UserKnownHostsFile is none")
        _remember(target, blob)
        return target.known_hosts[0]


def connect(target: Target, credentials: Credentials, call: Call) -> Connection:
    """Connect to `target` and log in. Raises UnknownHostKey, Denied, Unreachable, TimedOut, Cancelled, BadAnswer."""
    with contextlib.ExitStack() as stack:
        connection = _connect(target, credentials, call, stack, jumped_through=False, depth=0)
        connection.closers.append(stack.pop_all().close)
    connection.line.set_keepalive(KEEPALIVE)
    return connection


def _connect(
    target: Target,
    credentials: Credentials,
    call: Call,
    stack: contextlib.ExitStack,
    jumped_through: bool,
    depth: int,
) -> Connection:
    stream = _reach(target, credentials, call, stack, depth)
    lines = lines_for(
        host_names(target.host, target.port, target.known_as), (*target.known_hosts_of_all, *target.known_hosts)
    )
    line = Line(stream, _kinds(lines))
    stack.callback(line.drop)
    line.greet(call)
    _check_host_key(line, target, lines, credentials, call, jumped_through)
    if jumped_through:
        credentials = Credentials(passphrase=credentials.passphrase)
    login = _LogIn(line, target, credentials, call).run()
    return Connection(target, line, login)


def _reach(
    target: Target, credentials: Credentials, call: Call, stack: contextlib.ExitStack, depth: int
) -> "socket.socket | paramiko.Channel":
    """The stream on which the target's sshd speaks."""
    if depth > _DEEPEST:
        raise FarbootError(call.tried, call.on, "its ProxyJump goes in a circle", "see ~/.ssh/config")
    if target.jumps:
        *before, last = target.jumps
        try:
            name, port, user = parse_jump(last)
        except ValueError:
            raise FarbootError("understand", f"the ProxyJump of {target.name}", f"{last} is no host") from None
        through = resolve(name, port, user)
        if before:
            through = replace(through, jumps=tuple(before), command="")
        hop = _connect(through, credentials, call, stack, jumped_through=True, depth=depth + 1)
        return _tunnel(hop, target, call)
    if target.command:
        return _through_program(target, stack)
    stream = socket.socket(fileno=call.dial(target.host, target.port).detach())  # it outlives the call
    stack.callback(stream.close)
    return stream


def _tunnel(hop: Connection, target: Target, call: Call) -> paramiko.Channel:
    where = (target.host, target.port)
    try:
        with call.waiting(hop.line.drop) as left:
            return hop.line.open_channel("direct-tcpip", where, ("127.0.0.1", 0), timeout=left)
    except paramiko.ChannelException as error:
        why = f"the jump host {hop.target.address} cannot reach {target.host} port {target.port}"
        if error.code == 1:
            hint = "its sshd forbids it: AllowTcpForwarding, PermitOpen"
            raise Denied(call.tried, call.on, f"the jump host {hop.target.address} does not forward", hint) from None
        raise Unreachable(call.tried, call.on, why, "does the name mean something there?") from None
    except (paramiko.SSHException, OSError, EOFError):
        call.remaining()
        raise hop.line.lost(call) from None


def _through_program(target: Target, stack: contextlib.ExitStack) -> socket.socket:
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    with theirs:
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {target.command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            raise MissingClient("start", "the ProxyCommand", "there is no /bin/sh") from None

    def end() -> None:
        process.kill()
        process.wait()

    stack.callback(end)
    return ours


# -- host keys --------------------------------------------------------------------------------------------------


def _kinds(lines: tuple[KnownLine, ...]) -> tuple[str, ...]:
    """The algorithms to ask for: first those of keys that are known, or a server with several would look changed."""
    known = {line.kind for line in lines if not line.marker}
    known |= {"rsa-sha2-512", "rsa-sha2-256"} if "ssh-rsa" in known else set()
    return tuple(sorted(HOST_KEY_ORDER, key=lambda kind: kind not in known))


def _check_host_key(
    line: Line, target: Target, lines: tuple[KnownLine, ...], credentials: Credentials, call: Call, jumped: bool
) -> None:
    """Raise UnknownHostKey or Denied unless somebody vouches for the key that the server has shown."""
    blob = line.shown_key
    kind, shown = Packet(blob).text(), fingerprint(blob)
    verdict, where = judge(kind, blob, lines)
    tried, on, short = call.tried, call.on, kind.removeprefix("ssh-")
    host = target.host if target.port == 22 else f"{target.host} port {target.port}"
    if verdict is Verdict.KNOWN:
        return
    if verdict is Verdict.REVOKED and where:
        raise Denied(tried, on, f"the host key that {host} shows, {short} {shown}, is revoked in {where.place}")
    if verdict is Verdict.CHANGED and where:
        why = f"THE HOST KEY OF {host} HAS CHANGED: it shows {short} {shown}, and {where.place} has another one"
        name = host_names(target.host, target.port, target.known_as)[0]
        hint = (
            "somebody may be listening in, or the host was installed anew; ask its administrator, and only then remove"
            f" the line: ssh-keygen -f {shell_word(where.file)} -R {shell_word(name)}"
        )
        raise Denied(tried, on, why, hint)
    if jumped:
        if target.strict in {"no", "accept-new"}:
            _remember(target, blob)
            return
        hint = f"its key is {short} {shown}; connect to it once by ssh, which asks"
        raise Denied(tried, on, f"the host key of the jump host {target.address} is not known", hint)
    if credentials.host_key is not None:
        if credentials.host_key == shown:
            return
        raise Denied(tried, on, f"{host} shows another host key ({short} {shown}) than the one that was said yes to")
    if target.strict in {"no", "accept-new"}:
        _remember(target, blob)
        return
    why = f"the host key of {host} is not known: {short} {shown}"
    if any(other.marker == "cert-authority" for other in lines):
        why += " (Farboot cannot check it by the certificate authority that known_hosts names)"
    if any(not other.marker for other in lines):
        why += f" (known_hosts has one of another kind: {', '.join(sorted({other.kind for other in lines}))})"
    if target.strict == "yes":
        raise Denied(tried, on, why, "StrictHostKeyChecking is yes: add it to known_hosts by other means")
    there = f"ssh-keygen -lf /etc/ssh/ssh_host_{short.partition('-')[0]}_key.pub"
    raise UnknownHostKey(tried, on, why, f"compare it with what `{there}` says on the host", "", shown, kind)


def _remember(target: Target, blob: bytes) -> None:
    if target.known_hosts and target.known_hosts[0] != os.devnull:
        names = host_names(target.host, target.port, target.known_as)
        remember_host_key(names, Packet(blob).text(), blob, target.known_hosts[0], target.hash_names)


# -- logging in -------------------------------------------------------------------------------------------------


class _LogIn:
    """One go at being let in."""

    def __init__(self, line: Line, target: Target, credentials: Credentials, call: Call) -> None:
        self.line = line
        self.target = target
        self.credentials = credentials
        self.call = call
        self.user = raw(target.user)
        self.tried: list[str] = []
        self.failures = 0
        self.locked: Denied | None = None

    def run(self) -> Login:
        """Try what we have, in order. Raises Denied, which says what was tried and what would help."""
        self.line.begin_log_in(self.call)
        reply = self._request("none")
        if reply.success:
            return Login("none")
        identity: Identity | None = None
        if "publickey" in reply.methods:
            identity, after = self._by_key()
            if identity and after.success:
                return Login("publickey", identity)
            reply = after if identity else reply  # right, but not enough: the server names what else it wants
        wanted = next((method for method in _BY_PASSWORD if method in reply.methods), "")
        if self.locked and not (wanted and self.credentials.password):
            raise self.locked
        if not wanted:
            raise self._denied(reply.methods, wants=())
        if self.credentials.password is None:
            raise self._denied(reply.methods, wants=("password",))
        if self._by_password(wanted, self.credentials.password).success:
            return Login(wanted, identity)
        self.tried.append("the password")
        raise self._denied(reply.methods, wants=("password",))

    def _by_key(self) -> tuple[Identity | None, Reply]:
        """Try keys until the server takes one; the last reply, and which key that was for."""
        most = MOST_TRIES - (2 if self.credentials.password else 1)
        reply = Reply()
        found, trouble = candidates(self.target, min(_AGENT_SECONDS, self.call.remaining()))
        if trouble:
            self.tried.append(trouble)
        for identity in found:
            if self.failures >= most:
                self.tried.append("no more, lest the server hangs up: name the right one by IdentityFile")
                break
            reply = self._told(self.line.probe(self.call, self.user, identity))
            if not (reply.welcome or reply.success):
                self.tried.append(identity.name)
                continue
            if reply.success:  # a server that does not wait for the signature
                return identity, reply
            try:
                signature = self._sign(identity)
            except Denied as error:
                self.locked = self.locked or replace_context(error, self.call)
                self.tried.append(f"{identity.name} (locked)")
                continue
            except FarbootError as error:
                self.tried.append(f"{identity.name} ({error.why})")
                continue
            algorithm = identity.algorithm(self.line.algorithms).encode()
            fields = b"\1" + string(algorithm) + string(identity.blob) + string(signature)
            reply = self._request("publickey", fields)
            if reply.success or reply.partial:
                return identity, reply
            self.tried.append(identity.name)
        return None, reply

    def _sign(self, identity: Identity) -> bytes:
        data, algorithm = self.line.signed(self.user, identity)
        return identity.sign(data, algorithm, self.credentials.passphrase, self.call.remaining())

    def _by_password(self, method: str, password: Secret) -> Reply:
        word = raw(password.reveal())
        if method == "password":
            return self._request(method, b"\0" + string(word))
        reply = self._request(method, string(b"") + string(b""))
        answered = False
        for _ in range(_ROUNDS):
            if reply.prompts is None:
                return reply
            if reply.prompts > 1 or (reply.prompts and answered):
                why = "it asks for more than a password, which only ssh itself can answer"
                raise Denied(self.call.tried, self.call.on, why, "log in by a key")
            answered = answered or bool(reply.prompts)
            reply = self._told(self.line.answer(self.call, [word] * reply.prompts))
        return Reply()

    def _request(self, method: str, fields: bytes = b"") -> Reply:
        return self._told(self.line.request(self.call, self.user, method, fields))

    def _told(self, reply: Reply) -> Reply:
        self.failures += bool(reply.methods) and not reply.partial
        return reply

    def _denied(self, methods: tuple[str, ...], wants: tuple[str, ...]) -> Denied:
        tried = "; tried " + ", ".join(self.tried[:MOST_TRIES]) if self.tried else ""
        if "publickey" in methods and not self.tried:
            tried = "; there is no key to try, neither in ~/.ssh nor in an agent"
        why = f"{self.target.address} does not let us in{tried}"
        if "the password" in self.tried:
            hint = "is it the right one, and may this user log in with a password?"
        elif wants:
            hint = "it also takes a password"
        else:
            hint = f"it takes {', '.join(methods) or 'nothing that we have'}; ssh-copy-id puts a key there"
        return Denied(self.call.tried, self.call.on, why, hint, wants=wants)


def replace_context(error: Denied, call: Call) -> Denied:
    """The same trouble with a key file, told of what the person wanted."""
    return Denied(call.tried, call.on, f"{error.on}: {error.why}", error.hint, wants=error.wants)
