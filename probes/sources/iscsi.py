"""iSCSI: a portal's targets, a target's logical units (LUNs), read and written by SCSI commands.

`iscsi://host/` lists the targets that the portal tells of (SendTargets), `iscsi://host/target/` the target's LUNs
with vendor, kind and size; `iscsi://host/target/1` is a LUN, as QEMU and libiscsi write it. LUNs that are no disks and
no CDs are shown, and can neither be read nor booted. CHAP takes a user and a password; `?initiator=` logs in under
another name than this host's own, `?header_digest=crc32c` asks for checksums.

Nothing here reserves a LUN: it may be looked at while another uses it. Who uses it cannot be known, but for those who
have reserved it. It runs in a child process: libiscsi trusts a target's answers more than one should.
"""

import threading
from collections.abc import Iterator
from dataclasses import replace

from probes.attachment import Attachment, Mode, QemuFacts, Route, RouteWish, SecretSlot
from probes.credentials import NO_CREDENTIALS, Credentials
from probes.entry import Entry, Kind
from probes.errors import Cancelled, Denied, NotAContainer, NotAnImage, Unsupported
from probes.iscsi import unit
from probes.iscsi.commands import CD, NO_MEDIUM, Lun, Status
from probes.iscsi.connection import Found
from probes.iscsi.library import load
from probes.iscsi.names import Login, Place, addresses, is_wildcard, login_of, place_of, portal_of, portal_text
from probes.iscsi.session import Session
from probes.location import Location
from probes.reader import Reader, Writer
from probes.source import DEADLINE, Source, Use
from probes.text import clean

_AT_ONCE = 256  # LUNs looked at together
_TIMEOUT = 20  # seconds after which QEMU gives a command up and asks again


class IscsiSource(Source):
    """The targets and LUNs that one initiator sees, over one session a target."""

    schemes = ("iscsi",)
    title = "iSCSI"

    def __init__(self, credentials: Credentials = NO_CREDENTIALS, deadline: float = DEADLINE) -> None:
        super().__init__(credentials, deadline)
        self._library = load()
        self._sessions: dict[Login, Session] = {}
        self._discoveries: set[Session] = set()
        self._lock = threading.Lock()
        self._closed = False

    def entries(self, location: Location) -> Iterator[Entry]:
        tried = "list"
        place = place_of(location, tried)
        if not place.target:
            yield from self._targets(location, place, tried)
            return
        session = self._session(location, place, tried)
        if place.lun is not None:
            unit.look_at(session, place.lun, tried, location)
            raise NotAContainer(tried, location, "it is a LUN")
        luns, others = unit.luns(session, tried, location)
        for first in range(0, len(luns), _AT_ONCE):
            for seen in unit.look(session, luns[first : first + _AT_ONCE], tried, location):
                if seen.inquiry is None or seen.inquiry.exists:
                    yield _entry(location.child(str(seen.lun.number)), seen)
        if others:
            name = f"{others} more"
            yield Entry(location, name, Kind.OTHER, note="LUNs of a second level, which libiscsi cannot address")

    def stat(self, location: Location) -> Entry:
        tried = "look at"
        place = place_of(location, tried)
        if not place.target:
            self._discovered(location, place, tried)
            return Entry(location, location.name, Kind.CONTAINER)
        session = self._session(location, place, tried)
        if place.lun is None:
            return Entry(location, place.target, Kind.CONTAINER)
        return _entry(location, unit.look_at(session, place.lun, tried, location))

    def open(self, location: Location) -> Reader:
        return self._unit(location, "open")[0]

    def open_for_writing(self, location: Location) -> Writer:
        """Open the LUN at `location` for reading and writing. Raises Denied where it is write-protected."""
        opened, _ = self._unit(location, "open for writing")
        if opened.is_write_protected("open for writing"):
            raise Denied("open for writing", location, "the LUN is write-protected")
        return opened

    def in_use(self, location: Location) -> Use:
        """Return who has reserved the LUN at `location`, or registered to do so.

        Never certain: initiators that simply use it leave no trace that another could see.
        """
        tried = "see who uses"
        session, lun = self._lun(location, tried)
        unit.look_at(session, lun, tried, location)
        return Use(tuple(unit.reserved_by(session, lun, session.login.initiator, tried, location)), certain=False)

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        """Say QEMU's `iscsi` node: the same library, logging in under the same name."""
        tried = "attach"
        opened, session = self._unit(location, tried)
        login = session.login
        whole = Attachment(
            location,
            Route.BRIDGE,
            opened.pin,
            writable=not opened.is_write_protected(tried),
            trusted=True,
            scsi=True,
            cd=opened.is_cd,
            why=_why_bridge(login, qemu),
        )
        if whole.why:
            if qemu.route is RouteWish.DIRECT:
                raise Unsupported(tried, location, whole.why, "choose the route auto or bridge")
            return whole
        host = login.host if session.is_first_address and login.host.isascii() else session.address
        node: dict[str, object] = {
            "driver": "iscsi",
            "transport": "tcp",
            "portal": portal_text(host, login.port),
            "target": login.target,
            "lun": opened.lun.wire,
            "initiator-name": login.initiator,
            "timeout": _TIMEOUT,
        }
        node |= {"header-digest": login.digest} if login.digest else {}
        secrets: tuple[SecretSlot, ...] = ()
        if login.password is not None and login.user:
            node["user"] = login.user
            label = f"CHAP secret of {login.user} at {portal_text(login.host, login.port)}"
            secrets = (SecretSlot("password-secret", login.password, label, "password"),)
        return replace(whole, route=Route.DRIVER, node=node, secrets=secrets)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            sessions = [*self._sessions.values(), *self._discoveries]
            self._sessions.clear()
        for session in sessions:
            session.close()

    def _unit(self, location: Location, tried: str) -> tuple[unit.Unit, Session]:
        session, lun = self._lun(location, tried)
        return unit.Unit(session, lun, location, tried), session

    def _lun(self, location: Location, tried: str) -> tuple[Session, Lun]:
        """The session with a LUN's target, and the LUN. Raises NotAnImage for what is above a LUN."""
        place = place_of(location, tried)
        if not place.target:
            raise NotAnImage(tried, location, "it is a portal", "choose a LUN of one of its targets")
        session = self._session(location, place, tried)
        if place.lun is None:
            raise NotAnImage(tried, location, "it is a target", "choose one of its LUNs")
        return session, place.lun

    def _session(self, location: Location, place: Place, tried: str) -> Session:
        """The session with the target of `place`, made when it is first wanted, or when the last one has ended."""
        login = login_of(location, place, self.credentials, tried)
        with self._lock:
            session = self._sessions.get(login)
            if self._closed:
                raise Cancelled(tried, location, "it was closed")
            if session is None or session.has_ended:
                session = self._sessions[login] = Session(self._library, login, self.deadline, tried, location)
        session.wait_until_ready(tried, location)
        return session

    def _discovered(self, location: Location, place: Place, tried: str) -> list[Found]:
        """Ask the portal for its targets, in a session of its own."""
        login = login_of(location, place, self.credentials, tried)
        with self._lock:
            if self._closed:
                raise Cancelled(tried, location, "it was closed")
            session = Session(self._library, login, self.deadline, tried, location)
            self._discoveries.add(session)
        try:
            session.wait_until_ready(tried, location)
            return session.targets
        finally:
            session.close()
            with self._lock:
                self._discoveries.discard(session)

    def _targets(self, location: Location, place: Place, tried: str) -> Iterator[Entry]:
        here: set[tuple[str, int]] | None = None
        for found in self._discovered(location, place, tried):
            name = found.name.decode("utf-8", "surrogateescape")
            portals = [portal for text in found.portals if (portal := portal_of(text.decode("ascii", "replace")))]
            if here is None and portals:
                known = addresses(place.host, place.port, self.deadline, tried, location)
                here = {(place.host, place.port), *((address, place.port) for address in known)}
            if name:
                yield _target(location, name, portals, here or set())


def _target(location: Location, name: str, portals: list[tuple[str, int]], here: set[tuple[str, int]]) -> Entry:
    """The row of a target, at the portal that was asked if the target is there too, else at the first it has."""
    others = [portal for portal in portals if portal not in here and not is_wildcard(portal[0])]
    if not others or len(others) < len(portals):
        note = f"also at {_listed(others)}" if others else ""
        return Entry(location.child(name, container=True), name, Kind.CONTAINER, note=note)
    user = location.authority.rpartition("@")[0]
    moved = replace(location, authority=f"{user}@{portal_text(*others[0])}" if user else portal_text(*others[0]))
    return Entry(moved.child(name, container=True), name, Kind.CONTAINER, note=f"at {_listed(others)}")


def _listed(portals: list[tuple[str, int]]) -> str:
    shown = ", ".join(portal_text(*portal) for portal in portals[:3])
    return clean(shown + (", …" if len(portals) > 3 else ""), 120)


def _entry(location: Location, seen: unit.Seen) -> Entry:
    name, inquiry = str(seen.lun.number), seen.inquiry
    if inquiry is None:
        return Entry(location, name, Kind.OTHER, note="does not answer")
    who = clean(" ".join(word for word in (inquiry.vendor, inquiry.product) if word), 40)
    words = [f"{who}, {inquiry.word}" if who else inquiry.word]
    if not inquiry.connected:
        words.append("not connected")
    elif inquiry.readable and seen.capacity is None:
        words.append(_why_no_size(seen))
    elif seen.capacity is not None and seen.capacity.block not in {512, 2048}:
        words.append(f"blocks of {seen.capacity.block}")
    if seen.lun.number == seen.lun.wire > 255:
        words.append(f"flat address of {seen.lun.wire & 0x3FFF}")
    kind = Kind.IMAGE if inquiry.readable else Kind.OTHER
    if inquiry.type == CD and seen.capacity is None:
        kind = Kind.OTHER
    return Entry(location, name, kind, seen.capacity.size if seen.capacity else None, note=", ".join(words))


def _why_no_size(seen: unit.Seen) -> str:
    if seen.answer.status == Status.RESERVATION_CONFLICT:
        return "reserved by another initiator"
    return "no medium" if seen.answer.code >> 8 == NO_MEDIUM else "not ready"


def _why_bridge(login: Login, qemu: QemuFacts) -> str:
    if qemu.route is RouteWish.BRIDGE:
        return "the bridge was asked for"
    if "iscsi" not in qemu.drivers:
        return "this QEMU has no iscsi driver (apt install qemu-block-extra or dnf install qemu-block-iscsi)"
    if any("\udc80" <= character <= "\udcff" for character in login.target):
        return "QEMU cannot be given a name that is not UTF-8"
    if login.target_password is not None:
        return "QEMU's iscsi driver cannot check the target's own CHAP secret"
    return ""
