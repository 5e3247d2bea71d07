"""What Farboot does, without a screen: browse, inspect, plan, boot.

The command line and the Textual application are two faces of this. Everything here blocks, may be called from any
thread, and raises the errors of `probes.errors`.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from app.keychain import Keychain
from app.qemu.options import Host, Options
from app.qemu.steps import BootPlan, Layer, LaySecret
from probes.attachment import Attachment
from probes.credentials import Credentials, Secret
from probes.errors import Changed, NotAnImage, Refused
from probes.image import Image
from probes.location import Location
from probes.reader import Pin
from probes.source import DEADLINE, Source

if TYPE_CHECKING:
    from app.qemu.sessions.session import SessionInfo


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

    `secrets` are by the path of their `LaySecret` step, `credentials` are for the bridge.
    """

    plan: BootPlan
    secrets: Mapping[str, Secret]
    credentials: Credentials
    inspection: Inspection


class Engine:
    """Farboot's own machinery. `deadline` in seconds bounds each call to a storage system."""

    def __init__(self, keychain: Keychain | None = None, deadline: float = DEADLINE) -> None:
        self.keychain = keychain or Keychain()
        self.deadline = deadline
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

    def inspect(self, location: Location, source: Source | None = None) -> Inspection:
        """Read a few kilobytes of the image and say what it is."""
        from probes.identify import head_digest, identify
        from probes.recording import RecordingReader

        if source is None:
            with self.open_source(location) as own:
                return self.inspect(location, own)
        if location.is_container and location.scheme != "rbd":
            raise NotAnImage("inspect", location, "it is a folder", "name an image in it")
        with source.open(location) as reader:
            recording = RecordingReader(reader)  # so that the digest is of the very bytes that were judged
            image = identify(recording)
            return Inspection(location, image, reader.pin, head_digest(recording))

    def prepare(self, location: Location, options: Options, inspection: Inspection | None = None) -> Prepared:
        """Plan the boot of the image at `location`. A plan with refusals is a plan, not an error.

        With `inspection` the image is not judged again; if it is no longer that one, `Changed` is raised.
        """
        from app.qemu.boot.plan import plan
        from app.qemu.host.find import fresh_host

        host = fresh_host(self.host)
        facts = replace(host.facts, route=options.route)
        with self.open_source(location) as source:
            inspection = inspection or self.inspect(location, source)
            attachment = source.attach(location, facts, options.mode)
        if differ(attachment.pin, inspection.pin):
            raise Changed("boot", location, "it changed while it was looked at", "look at it again")
        layer = Layer(attachment, inspection.image, inspection.head)
        planned = plan([layer], options, replace(host, facts=facts))
        return Prepared(planned, _secrets(planned, attachment), self.keychain.get(location), inspection)

    def script(self, prepared: Prepared) -> str:
        """Return the boot as a shell script that can be run as it stands."""
        from app.qemu.boot.script import script

        return script(prepared.plan)

    def boot(self, prepared: Prepared) -> "SessionInfo":
        """Start the guest and return its session once it runs. Raises Refused if the plan has refusals."""
        from app.qemu.sessions.session import launch

        plan = prepared.plan
        if plan.refusals:
            raise Refused("boot", plan.location, "; ".join(plan.refusals))
        return launch(plan, prepared.secrets, prepared.credentials)


def differ(one: Pin, other: Pin) -> bool:
    """Whether two pins cannot be of the same bytes. A missing validator says nothing."""
    if one.size != other.size:
        return True
    return bool(one.validator and other.validator) and one.validator != other.validator


def _secrets(plan: BootPlan, attachment: Attachment) -> dict[str, Secret]:
    slots = {slot.asked: slot.secret for slot in attachment.secrets}
    return {step.path: slots[step.field] for step in plan.steps if isinstance(step, LaySecret)}
