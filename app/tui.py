"""The Textual application: its rooms, its colours, and what all rooms share."""

import gc
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import App
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.screen import Screen

from app.background import Job, ask
from app.keeping import keep, keep_passphrases
from app.keychain import place_of
from app.looks import THEMES, PlainGlyphs, theme_for
from app.memory import Memory
from app.screens.browse import Browse
from app.screens.contract import Engine, Guests
from app.screens.room import Room
from probes.errors import Denied, FarbootError, UnknownHostKey
from probes.location import Location
from probes.text import clean, shell_word
from probes.words import counted

if TYPE_CHECKING:
    from textual.notifications import SeverityLevel

    from app.qemu.sessions.session import SessionInfo

_LOOK_AT_GUESTS = 1.0


class FarbootApp(App[None], inherit_bindings=False):
    """Farboot's screen. `guests` and `memory` are for tests; without them they are this host's and this person's."""

    TITLE = "Farboot"
    CSS_PATH = "farboot.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "how_to_leave", show=False, system=True),
    ]

    def __init__(
        self, engine: Engine, start: Location | None = None, guests: Guests | None = None, memory: Memory | None = None
    ) -> None:
        self.linux_console = os.environ.get("TERM") == "linux"
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
        self.VERTICAL_BREAKPOINTS = [(0, "-low"), (18, "-short"), (32, "-tall")]
        self.engine = engine
        self.memory = memory or Memory()
        self.guests: tuple[SessionInfo, ...] = ()
        self._start_at = start
        self._guests = guests
        self._guests_job: Job | None = None
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = theme_for(self.console.color_system)

    def get_default_screen(self) -> Screen[None]:
        """The room one comes in by."""
        return Browse(self.engine, self._start_at, self.memory)

    def get_line_filters(self) -> list[LineFilter]:
        """On a bare console, only glyphs that its font has."""
        filters = list(super().get_line_filters())
        return [*filters, PlainGlyphs()] if self.linux_console else filters

    def on_mount(self) -> None:
        """Begin to look after the guests."""
        self.set_interval(_LOOK_AT_GUESTS, self._look_at_guests)
        self.set_timer(0.2, self._look_at_guests)
        self.set_timer(0.3, self._warm_up)

    def _warm_up(self) -> None:
        """Find out in good time what this host can do: the first time takes seconds."""
        ask(self, lambda: self.engine.host, lambda _host: None, lambda _error: None)

    # Guests

    @property
    def guests_api(self) -> Guests:
        """The guests of this host; imported when they are first needed."""
        if self._guests is None:
            from app.qemu.sessions import session

            self._guests = session
        return self._guests

    def _look_at_guests(self) -> None:
        if self._guests_job is None:
            self._guests_job = ask(
                self, lambda: tuple(self.guests_api.sessions()), self._guests_seen, self._guests_unseen
            )

    def _guests_seen(self, guests: "tuple[SessionInfo, ...]") -> None:
        self._guests_job = None
        self.guests = guests
        for screen in self.screen_stack:
            if isinstance(screen, Room) and screen.is_furnished:
                screen.guests_changed(guests)

    def _guests_unseen(self, error: FarbootError) -> None:
        self._guests_job = None

    def show_guest(self, guest: "SessionInfo", new: bool = False) -> None:
        """Go to a guest's room."""
        from app.screens.guest import GuestRoom

        self.push_screen(GuestRoom(self.guests_api, guest, new))
        self._look_at_guests()

    def stop_guest(self, guest: "SessionInfo") -> None:
        """Ask how a guest shall be stopped, and do it. One that ended is taken off the list."""
        from app.screens.dialogs import Ask, Choice

        def stop(force: bool) -> None:
            ask(self, lambda: self.guests_api.stop(guest.id, force), lambda _: self._look_at_guests(), self.fail)

        def answered(answer: str | None) -> None:
            if answer is not None:
                stop(answer == "f")

        if guest.is_over:
            stop(force=False)
            return

        text = "Its disk is a throwaway overlay: whatever happens to it, the image stays as it is."
        if guest.mode != "snapshot":
            text = (
                "It writes into the image itself. Shut down, it writes what it still holds; "
                "ended at once, it leaves its file systems as a power cut would."
            )
        choices = (Choice("s", "shut it down"), Choice("f", "end it at once"))
        self.push_screen(Ask(f"Stop {clean(guest.name)}?", text, choices), answered)

    # Defects

    @property
    def defect(self) -> Exception | None:
        """What ended the program, if nothing should have."""
        return self._exception

    def _handle_exception(self, error: Exception) -> None:
        """Textual would print a traceback with everybody's local variables: end as quietly as `q` does instead.

        What fails while everything is being taken down after a `q` is nobody's concern any more.
        """
        if self._exception is None and not self._exit:
            self._exception = error
            self._exception_event.set()
            self._return_code = 1
        self._close_messages_no_wait()

    def thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """A defect in a thread that nobody waits for ends the program like any other."""
        if isinstance(failure.exc_value, Exception):
            with suppress(RuntimeError):  # the program has ended by itself: its event loop is closed
                self.call_later(self._handle_exception, failure.exc_value)

    # What rooms share

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """No key is a command while a guest gets them all."""
        screen = self.screen_stack[-1] if self.screen_stack else None
        return not (isinstance(screen, Room) and screen.takes_all_keys)

    def say(self, text: str, severity: "SeverityLevel" = "information") -> None:
        """Tell something in passing."""
        self.notify(text, severity=severity, markup=False)

    def fail(self, error: FarbootError) -> None:
        """Tell what went wrong."""
        self.say(str(error), "error")

    def copy(self, what: str, text: str) -> None:
        """Send a text to the terminal's clipboard; where there is none, show it."""
        from app.screens.dialogs import Show

        if self.linux_console:
            self.push_screen(Show(what, text))
            return
        self.copy_to_clipboard(text)
        self.say(f"{what} was sent to the terminal's clipboard")

    def copy_command(self, location: Location, script: str) -> None:
        """Send a script to the clipboard; where there is none, say how to have it in a file."""
        if self.linux_console:
            from app.screens.dialogs import Show

            way = f"farboot command {shell_word(str(location))} > boot.sh"
            text = f"This terminal has no clipboard. To have the script in a file, leave Farboot and type\n\n{way}"
            self.push_screen(Show("The command", text))
        else:
            self.copy("The command", script)

    def ask_credentials(self, error: Denied, location: Location, then: Callable[[], None]) -> None:
        """Ask for what a server wants, remember it, and go on."""
        from app.saved_secrets import SavedSecrets
        from app.screens.ask_credentials import Answer, AskCredentials

        if isinstance(error, UnknownHostKey):
            self._ask_about_host(error, location, then)
            return
        location = place_of(error, location)

        def answered(answer: Answer | None) -> None:
            if answer is not None:
                self.engine.keychain.add(location, answer.credentials, answer.save)
                then()

        keychain = self.engine.keychain
        saved = keychain.saved if isinstance(keychain.saved, SavedSecrets) else None
        username = keychain.get(location).username or ""
        self.push_screen(AskCredentials(error, location, saved, username), answered)

    def _ask_about_host(self, error: UnknownHostKey, location: Location, then: Callable[[], None]) -> None:
        from app.screens.dialogs import Ask, Choice
        from probes.credentials import Credentials

        def answered(answer: str | None) -> None:
            if answer is not None:
                trusted = Credentials(host_key=error.fingerprint)
                self.engine.keychain.add(location, trusted, vouch_for_host=answer == "a")
                then()

        text = f"{error.why}\n\n{error.hint}" if error.hint else error.why
        choices = (Choice("y", "trusts it this time"), Choice("a", "always (known_hosts)"))
        self.push_screen(Ask(f"Is this really {clean(location.host)}?", text, choices, "no"), answered)

    def let_in(self, location: Location) -> None:
        """A server let us in: keep what was wished to be kept."""
        if self.engine.keychain.is_to_keep(location):
            ask(self, lambda: keep(self.engine, location), self._kept, self.fail)

    def unlocked(self, images: Sequence[Location]) -> None:
        """Encrypted images were opened: keep what was wished to be kept."""
        if images:
            ask(self, lambda: keep_passphrases(self.engine.keychain, images), self._kept, self.fail)

    def _kept(self, done: list[str]) -> None:
        for text in done:
            self.say(text)

    def action_guests(self) -> None:
        """Go to the guests."""
        from app.screens.guests import GuestsRoom

        if not isinstance(self.screen, GuestsRoom):
            self.push_screen(GuestsRoom())

    def action_help(self) -> None:
        """Show all keys."""
        from app.screens.dialogs import Show
        from app.screens.help import help_text

        self.push_screen(Show("Keys", help_text()))

    def action_how_to_leave(self) -> None:
        """Ctrl-C is for other things in a terminal."""
        self.say("q quits")

    def action_leave(self) -> None:
        """Quit; guests go on."""
        running = [guest for guest in self.guests if not guest.is_over]
        if running:
            verb = "goes" if len(running) == 1 else "go"
            text = f"{counted(len(running), 'guest')} {verb} on. farboot ps lists, farboot stop ID ends."
            self.exit(message=Text(text))
        else:
            self.exit()


def calm_collector() -> None:
    """Keep the garbage collector from walking through everything while 100,000 rows arrive: that is a felt pause.

    What Textual leaves behind is mostly freed without it; cycles are still looked for among what is young.
    """
    gc.freeze()
    gc.set_threshold(20_000, 5, 200)


def run(engine: Engine, start: Location | None) -> None:
    """Run the application until the person quits.

    Raises what ended it otherwise, once the terminal is as it was; guests go on either way.
    """
    calm_collector()
    app = FarbootApp(engine, start)
    before, threading.excepthook = threading.excepthook, app.thread_failed
    try:
        app.run()
    finally:
        threading.excepthook = before
    if app.defect is not None:
        raise app.defect
