"""Looking at an image again, while QEMU has it and the guest does not run yet: is it what was judged, is it ours alone?

Both ask the storage through its source, as everybody else would.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from app.qemu.sessions.roster import guests_of, known
from app.qemu.sessions.wire import SessionInfo, SessionState
from app.qemu.steps import CheckUnchanged, CheckUnused
from probes.credentials import Credentials
from probes.errors import Changed, Denied, Refused, TimedOut, Unsupported
from probes.reader import Pin
from probes.source import TellsUse

CHECK_DEADLINE = 30.0
"""Seconds that such a look may take."""

_STARTING = frozenset({SessionState.STARTING, SessionState.CHECKING})

T = TypeVar("T")


def look_again(step: CheckUnchanged, credentials: Credentials) -> None:
    """Compare the image with what was judged. Raises Changed, and whatever opening it raises."""
    from probes.registry import open_source

    with open_source(step.location, credentials) as source, source.open(step.location) as reader:
        difference = compare_pins(step.pin, reader.pin)
        if not difference and not step.evidence.agrees(reader):
            difference = "its bytes are not those that were judged"
    if difference:
        raise Changed("boot", step.location, difference, "look at it again")


def compare_pins(judged: Pin, found: Pin) -> str:
    """Say in what `found` differs from `judged`; empty if in nothing that can be known."""
    if judged.size != found.size:
        return f"it has {found.size} bytes, and had {judged.size} when it was judged"
    if judged.validator and found.validator and judged.validator != found.validator:
        return "it was written since it was judged"
    return ""


def look_for_others(step: CheckUnused, credentials: Credentials, own: str) -> None:
    """See that nobody but the session `own` has the image. Raises Refused, and whatever asking the storage raises.

    Its storage may be unable to tell, or not let us see: that was said before the person said yes.
    """
    from probes.host.use import use_of
    from probes.known.guests import owners
    from probes.known.here import users_here

    us = known(own)
    if rivals := [info.id for info in guests_of(step.location) if info.id != own and _came_first(info, us)]:
        raise Refused("write into", step.location, f"the guest {', '.join(rivals)} of this host uses it as well")
    if step.location.scheme in {"file", "host_device"}:
        users = use_of(step.location.path, family=True).users
    else:
        users = (*_seen(step, credentials), *users_here(step.location))
    users += tuple(str(owner) for owner in owners(step.location) if owner.may_run)
    if len(users) > step.ours:
        why = f"somebody else opened it meanwhile: {'; '.join(users)}"
        raise Refused("write into", step.location, f"{why} (this guest's own QEMU is among them)" if step.ours else why)


def _seen(step: CheckUnused, credentials: Credentials) -> tuple[str, ...]:
    from probes.registry import open_source

    with open_source(step.location, credentials) as source:
        try:
            return source.in_use(step.location).users if isinstance(source, TellsUse) else ()
        except (Denied, Unsupported):
            return ()


def _came_first(other: SessionInfo, us: SessionInfo) -> bool:
    """Whether another guest goes before: of two that start at the same moment one must give way, and not both."""
    return other.state not in _STARTING or (other.started, other.id) < (us.started, us.id)


async def in_thread(function: Callable[[], T], deadline: float, on: object) -> T:
    """Run `function` in a thread that nobody waits for after `deadline` seconds. Raises TimedOut."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # None only where T is

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  carried over to the awaiting task, whatever it is
            failure = error
        with suppress(RuntimeError):  # the loop may have closed meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    try:
        async with asyncio.timeout(deadline):
            return await done
    except TimeoutError:
        raise TimedOut("look again at", on, f"no answer within {deadline:g} seconds") from None
