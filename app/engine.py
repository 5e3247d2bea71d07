"""What Farboot does, without a screen: browse, inspect, plan, boot.

The command line and the Textual application are two faces of this. Everything here blocks, may be called from any
thread, and raises the errors of `probes.errors`.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from app.keychain import Keychain
from app.qemu.options import Host, Options
from app.qemu.steps import BootPlan, Layer, LaySecret
from probes.attachment import Attachment, Mode, Route
from probes.credentials import Credentials, Secret
from probes.errors import Changed, Denied, FarbootError, NotAnImage, NotFetched, Refused, Unsupported
from probes.image import Image
from probes.location import Location
from probes.reader import Pin
from probes.source import DEADLINE, Fetches, Progress, Source, TellsUse, Use

if TYPE_CHECKING:
    from app.qemu.sessions.session import SessionInfo
    from probes.known.guests import Owner
    from probes.known.root import Root

_T = TypeVar("_T")
_HOST_KEY_NOTE = (
    "the bridge asks nobody: it takes the server's host key only from known_hosts, not one accepted for once"
)


@dataclass(frozen=True)
class Inspection:
    """What an image is, and the bytes that this was read from: `head` is the hex SHA-256 of the first 64 KiB."""

    location: Location
    image: Image
    pin: Pin
    head: str


@dataclass(frozen=True)
class Prepared:
    """A boot that could start now: the plan, and the secrets that it needs, beside it.

    `secrets` are by the path of their `LaySecret` step, `credentials` are for the bridge. In a boot for writing `use`
    is who else uses the image, and `warning` the question (one line) that a person must have said yes to.
    """

    plan: BootPlan
    secrets: Mapping[str, Secret]
    credentials: Credentials
    inspection: Inspection
    use: Use | None = None
    warning: str = ""


class Engine:
    """Farboot's own machinery. `deadline` in seconds bounds each call to a storage system. `root` is where this
    machine's own files are looked for, those that tell whose an image is.
    """

    def __init__(
        self, keychain: Keychain | None = None, deadline: float = DEADLINE, root: "Root | None" = None
    ) -> None:
        self.keychain = keychain or Keychain()
        self.deadline = deadline
        self._root = root
        self._host: Host | None = None
        self._lock = threading.Lock()

    @property
    def host(self) -> Host:
        """What this host can do; found out once. Raises MissingClient without QEMU."""
        from app.qemu.host.find import find_host

        with self._lock:
            if self._host is None:
                self._host = find_host()
            return self._host

    def open_source(self, location: Location) -> Source:
        """Make the source for `location`, with the credentials that are known for it. The caller closes it."""
        from probes.registry import open_source

        return open_source(location, self.keychain.get(location), self.deadline)

    def fetch(self, location: Location, progress: Progress, again: bool = False) -> Pin:
        """Fetch the image whole, where its storage can be read in no other way, unless a copy lies here that is still
        good; with `again` even then. Raises Unsupported where that is never needed, and what `progress` raises.
        """
        with self.open_source(location) as source:
            if not isinstance(source, Fetches):
                raise Unsupported("fetch", location, "that is never needed: it is read where it lies")
            if again:
                source.forget(location)
            return source.fetch(location, progress)

    def inspect(self, location: Location, source: Source | None = None, fetch: Progress | None = None) -> Inspection:
        """Read a few kilobytes of the image and say what it is.

        Where its storage cannot give them without the whole image it is fetched, and `fetch` told how far that is;
        without `fetch` NotFetched is raised.
        """
        if source is None:
            with self.open_source(location) as own:
                return self.inspect(location, own, fetch)
        if location.is_container and location.scheme != "rbd":
            raise NotAnImage("inspect", location, "it is a folder", "name an image in it")
        return _fetching(source, location, fetch, lambda: self._judge(location, source))

    def _judge(self, location: Location, source: Source) -> Inspection:
        from probes.identify import head_digest, identify
        from probes.recording import RecordingReader

        with source.open(location) as reader:
            recording = RecordingReader(reader)  # so that the digest is of the very bytes that were judged
            image = identify(recording)
            return Inspection(location, image, reader.pin, head_digest(recording))

    def prepare(
        self,
        location: Location,
        options: Options,
        inspection: Inspection | None = None,
        fetch: Progress | None = None,
    ) -> Prepared:
        """Plan the boot of the image at `location`. A plan with refusals is a plan, not an error.

        With `inspection` the image is not judged again; if it is no longer that one, `Changed` is raised. `fetch` is
        as in `inspect`.
        """
        from app.qemu.boot.plan import plan
        from app.qemu.boot.writing import write_warning
        from app.qemu.host.find import fresh_host

        writing = options.mode is Mode.WRITE
        host = fresh_host(self.host)
        facts = replace(host.facts, route=options.route)
        with self.open_source(location) as source:
            inspection = inspection or self.inspect(location, source, fetch)
            attachment = _fetching(source, location, fetch, lambda: source.attach(location, facts, options.mode))
            use = _use(source, location) if writing else None
        owned = _owners(location, self._root, self.deadline) if writing else ()
        use = _with_others(use, owned, _here(location, self._root, self.deadline) if writing else ())
        if differ(attachment.pin, inspection.pin):
            raise Changed("boot", location, "it changed while it was looked at", "look at it again")
        layer = Layer(attachment, inspection.image, inspection.head, use, _guests(location, options.mode))
        planned = plan([layer], options, replace(host, facts=facts))
        warning = " ".join([write_warning(layer), *_whose(owned)]) if writing else ""
        secrets = _secrets(planned, attachment)
        return Prepared(planned, secrets, self.keychain.get(location), inspection, use, warning)

    def script(self, prepared: Prepared) -> str:
        """Return the boot as a shell script that can be run as it stands."""
        from app.qemu.boot.script import script

        notes = []
        if prepared.credentials.host_key and prepared.plan.route == Route.BRIDGE:
            notes.append(_HOST_KEY_NOTE)
        return script(prepared.plan, notes)

    def boot(self, prepared: Prepared) -> "SessionInfo":
        """Start the guest and return its session once it runs. Raises Refused if the plan has refusals."""
        from app.qemu.sessions.session import launch

        plan = prepared.plan
        if plan.refusals:
            raise refused(plan)
        return launch(plan, prepared.secrets, prepared.credentials)


def _fetching(source: Source, location: Location, progress: Progress | None, call: Callable[[], _T]) -> _T:
    """Return what `call` returns, having fetched the image where that takes it and `progress` is there to be told."""
    try:
        return call()
    except NotFetched:
        if progress is None or not isinstance(source, Fetches):
            raise
    source.fetch(location, progress)
    return call()


def differ(one: Pin, other: Pin) -> bool:
    """Whether two pins cannot be of the same bytes. A missing validator says nothing."""
    if one.size != other.size:
        return True
    return bool(one.validator and other.validator) and one.validator != other.validator


def refused(plan: BootPlan) -> FarbootError:
    """The error for a plan with refusals: Refused where the image is the reason, else Unsupported."""
    kind = Refused if plan.image_refused else Unsupported
    return kind("boot", plan.location, "; ".join(plan.refusals))


def _use(source: Source, location: Location) -> Use:
    """Who uses the image at `location`; uncertain where its storage cannot tell, or will not."""
    if not isinstance(source, TellsUse):
        return Use((), certain=False)
    try:
        return source.in_use(location)
    except (Denied, Unsupported):
        return Use((), certain=False)


def _owners(location: Location, root: "Root | None", deadline: float) -> "tuple[Owner, ...]":
    """The guests of Proxmox and libvirt whose disk it is. Raises TimedOut where their definitions cannot be read."""
    from probes.host.files import within
    from probes.known.guests import owners

    return within(deadline, "see whose disk it is:", location, lambda: owners(location, root))


def _here(location: Location, root: "Root | None", deadline: float) -> tuple[str, ...]:
    """Who of this host uses it by another way: the kernel, which has mounted it. Raises TimedOut."""
    from probes.host.files import within
    from probes.known.here import users_here

    return within(deadline, "see who uses", location, lambda: users_here(location, root))


def _with_others(use: Use | None, owned: "tuple[Owner, ...]", here: tuple[str, ...]) -> Use | None:
    """Whoever may run with the image as its disk uses it, and whoever has it here, which no storage need see."""
    others = (*here, *(str(owner) for owner in owned if owner.may_run))
    return replace(use, users=(*use.users, *others)) if use is not None and others else use


def _whose(owned: "tuple[Owner, ...]") -> list[str]:
    return [f"It is a disk of {owner}." for owner in owned if not owner.may_run]


def _guests(location: Location, mode: Mode) -> tuple[str, ...]:
    from app.qemu.sessions.roster import guests_of

    return tuple(info.id for info in guests_of(location, None if mode is Mode.WRITE else Mode.WRITE))


def _secrets(plan: BootPlan, attachment: Attachment) -> dict[str, Secret]:
    slots = {slot.asked: slot.secret for slot in attachment.secrets}
    if attachment.tls is not None and attachment.tls.psk is not None:
        slots[attachment.tls.psk.asked] = attachment.tls.psk.secret
    return {step.path: slots[step.field] for step in plan.steps if isinstance(step, LaySecret)}
