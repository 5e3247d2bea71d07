"""What Farboot does, without a screen: browse, inspect, plan, boot.

The command line and the Textual application are two faces of this. Everything here blocks, may be called from any
thread, and raises the errors of `probes.errors`.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from app.judged import Judged
from app.keychain import Keychain
from app.qemu.options import Host, Options
from app.qemu.steps import UNLOCKS, BootPlan, Layer, LaySecret
from probes.attachment import Attachment, Mode, QemuFacts, Route, SecretSlot
from probes.credentials import Credentials, Secret
from probes.errors import Changed, Denied, FarbootError, Locked, NotAnImage, NotFetched, Refused, Unsupported
from probes.evidence import Evidence
from probes.image import Image, Verdict
from probes.location import Location
from probes.reader import Pin, Reader
from probes.source import DEADLINE, Fetches, Progress, Source, TellsUse, Use

if TYPE_CHECKING:
    from app.qemu.sessions.session import SessionInfo
    from probes.chain import Link
    from probes.known.guests import Owner
    from probes.known.root import Root

_T = TypeVar("_T")
_HOST_KEY_NOTE = (
    "the bridge asks nobody: it takes the server's host key only from known_hosts, not one accepted for once"
)


@dataclass(frozen=True)
class Inspection:
    """What an image is, and the bytes that this was read from.

    `backing` are the images that it needs, its backing image first; what is to be known of them stands among the
    image's hazards. Where those refuse it there may be fewer.
    """

    location: Location
    image: Image
    pin: Pin
    evidence: Evidence
    backing: "tuple[Link, ...]" = ()

    @property
    def asked(self) -> frozenset[str]:
        """The codes of the hazards that need a yes; none where a yes would not help."""
        if self.image.verdict is not Verdict.ASK:
            return frozenset()
        return frozenset(hazard.code for hazard in self.image.hazards if hazard.verdict is Verdict.ASK)

    def accepted(self, options: Options) -> Options:
        """The options after a yes to all that asks."""
        return replace(options, accept=options.accept | self.asked)


@dataclass(frozen=True)
class Prepared:
    """A boot that could start now: the plan, and the secrets that it needs, beside it.

    `secrets` are by the path of their `LaySecret` step, but for passphrases that are not known; `credentials` are for
    the bridge. In a boot for writing `use` is who else uses the image, and `warning` the question (one line) that a
    person must have said yes to.
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
        from probes.chain import judge_chain

        def open_image(place: Location) -> Reader:
            return _fetching(source, place, fetch, lambda: source.open(place))

        first, *backing = judge_chain(location, open_image)
        return Inspection(first.location, first.image, first.pin, first.evidence, tuple(backing))

    def glance(self, location: Location, source: Source, known: Judged | None = None) -> Judged:
        """Read so little of the image that only its format, size and verdict are known; nothing more, and return
        `known`, if it is that very image still. Raises NotFetched where its storage gives images only whole.
        """
        from probes.identify import identify

        with source.open(location) as reader:
            if reader.is_whole:
                why = "its storage cannot give a part of it"
                raise NotFetched("look at", location, why, "it is read whole", size=reader.size)
            if known is not None and known.pin.validator and known.pin == reader.pin:
                return known
            return Judged(identify(reader, look_inside=False), reader.pin)

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
            chain = _attached(inspection, source, facts, options.mode, fetch)
            use = _use(source, location) if writing else None
        owned = _owners(location, self._root, self.deadline) if writing else ()
        use = _with_others(use, owned, _here(location, self._root, self.deadline) if writing else ())
        chain[0] = replace(chain[0], use=use, guests=_guests(location, options.mode))
        chain[1:] = [replace(layer, guests=_guests(layer.attachment.location, Mode.SNAPSHOT)) for layer in chain[1:]]
        planned = plan(chain, options, replace(host, facts=facts))
        warning = " ".join([write_warning(chain[0]), *_whose(owned)]) if writing else ""
        secrets = _secrets(planned, [layer.attachment for layer in chain])
        credentials = self.keychain.get(location)
        return self.with_passphrases(Prepared(planned, secrets, credentials, inspection, use, warning))

    def with_passphrases(self, prepared: Prepared) -> Prepared:
        """Return the boot with the passphrases of encrypted images that are known by now. One that was given for the
        image opens those behind it as well, unless they have one of their own.
        """
        plan, found = prepared.plan, dict(prepared.secrets)
        for step in plan.steps:
            if isinstance(step, LaySecret) and step.field == UNLOCKS:
                known = self.keychain.passphrase(step.location) or self.keychain.passphrase(plan.location)
                found |= {step.path: known} if known is not None else {}
        return replace(prepared, secrets=found)

    def script(self, prepared: Prepared) -> str:
        """Return the boot as a shell script that can be run as it stands."""
        from app.qemu.boot.script import script

        notes = []
        if prepared.credentials.host_key and prepared.plan.route == Route.BRIDGE:
            notes.append(_HOST_KEY_NOTE)
        return script(prepared.plan, notes)

    def boot(self, prepared: Prepared) -> "SessionInfo":
        """Start the guest and return its session once it runs. Raises Refused if the plan has refusals, Locked while a
        passphrase is missing or wrong.
        """
        from app.qemu.sessions.session import launch

        plan = prepared.plan
        if plan.refusals:
            raise refused(plan)
        insist_on_passphrases(prepared)
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


def insist_on_passphrases(prepared: Prepared) -> None:
    """Raise Locked if an image of the boot is encrypted and its passphrase is not known."""
    for step in prepared.plan.steps:
        if isinstance(step, LaySecret) and step.field == UNLOCKS and step.path not in prepared.secrets:
            raise Locked("boot", step.location, "it is encrypted, and its passphrase is not known")


def encrypted(plan: BootPlan) -> list[Location]:
    """Return the images of the boot that are opened with a passphrase."""
    return [step.location for step in plan.steps if isinstance(step, LaySecret) and step.field == UNLOCKS]


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


def _attached(
    inspection: Inspection, source: Source, facts: QemuFacts, mode: Mode, fetch: Progress | None
) -> list[Layer]:
    """The layers of the boot: the image, and the images that it needs unless it is refused, which are only read.

    Raises Changed if one of them is no longer what was judged.
    """
    links = [(inspection.location, inspection.image, inspection.pin, inspection.evidence, mode)]
    if inspection.image.verdict is not Verdict.REFUSE:
        links += [(link.location, link.image, link.pin, link.evidence, Mode.SNAPSHOT) for link in inspection.backing]
    layers = []
    for place, image, pin, evidence, how in links:
        attachment = _fetching(source, place, fetch, functools.partial(source.attach, place, facts, how))
        if differ(attachment.pin, pin):
            raise Changed("boot", place, "it changed while it was looked at", "look at it again")
        layers.append(Layer(attachment, image, evidence))
    return layers


def _secrets(plan: BootPlan, attachments: Sequence[Attachment]) -> dict[str, Secret]:
    """The secrets of the plan's steps that the sources gave: all but passphrases of images."""
    slots = {(a.location, slot.asked): slot.secret for a in attachments for slot in _slots(a)}
    steps = [step for step in plan.steps if isinstance(step, LaySecret) and step.field != UNLOCKS]
    return {step.path: slots[step.location, step.field] for step in steps}


def _slots(attachment: Attachment) -> Iterator[SecretSlot]:
    yield from attachment.secrets
    if attachment.tls is not None and attachment.tls.psk is not None:
        yield attachment.tls.psk
