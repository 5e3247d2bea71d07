"""Starting a guest: what is being done, what must be asked, and what went wrong."""

from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Input, Static

from app.background import Job, Pace, start
from app.engine import encrypted, insist_on_passphrases
from app.screens.contract import Engine
from app.screens.dialogs import Dialog
from probes.attachment import Mode
from probes.errors import Cancelled, Denied, FarbootError
from probes.image import Verdict
from probes.location import Location
from probes.text import clean
from probes.words import how_far
from widgets.facts import told

if TYPE_CHECKING:
    from app.engine import Prepared
    from app.qemu.options import Options
    from app.qemu.sessions.session import SessionInfo
    from app.tui import FarbootApp

_YES = "yes"
"""What is typed before a guest may write into an image: a word, for a single key is pressed too easily."""

_NO = frozenset({"n", "no", "q"})


class Starting(Dialog["SessionInfo | None"]):
    """Boots the image at `location` as `options` say; gives the guest, or None.

    A boot for writing waits until the person has read what will be written into and typed `yes`.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", priority=True),
        Binding("y", "yes", "Boot it", show=False),
        Binding("r", "again", "Try again", show=False),
    ]

    AUTO_FOCUS = ""

    def __init__(self, engine: Engine, location: Location, options: "Options") -> None:
        super().__init__()
        self._engine = engine
        self._location = location
        self._options = options
        self._job: Job | None = None
        self._waiting: Prepared | None = None
        self._failed_once = False

    def compose(self) -> ComposeResult:
        """Title, how far it is, keys."""
        writes = self._options.mode is Mode.WRITE
        with Vertical(classes="dialog" + (" writes" if writes else "")):
            what = "Boot, WRITING into" if writes else "Boot a snapshot of"
            title = Text(f"{what} {clean(self._location.title)}", overflow="ellipsis", no_wrap=True)
            yield Static(title, classes="dialog-title")
            with VerticalScroll(classes="dialog-text"):
                yield Static(id="starting")
            yield Input(id="sure", classes="dialog-input", placeholder=f"type {_YES}", max_length=20)
            yield Static(id="starting-keys", classes="dialog-keys")

    def on_mount(self) -> None:
        """Begin."""
        self.query_one("#sure").display = False
        self._begin()

    def _begin(self) -> None:
        self._failed_once = False
        self._waiting = None
        self.query_one("#sure").display = False
        self._say(Text("reading the image ..."), esc="leaves it")
        self._job = start(self, self._prepare, self._failed)

    def _prepare(self, job: Job) -> None:
        def fetching(came: int, size: int | None) -> None:
            if job.cancelled:
                raise Cancelled("fetch", self._location, "you stopped it")
            if is_due():
                job.tell(self._say, Text(f"fetching {how_far(came, size)} ..."), esc="stops")

        is_due = Pace(0.1)
        inspection = self._engine.inspect(self._location, fetch=fetching)
        job.tell(self._say, Text("working out the command ..."), esc="leaves it")
        options = inspection.accepted(self._options)  # a plan of it; it is booted only after the yes
        prepared = self._engine.prepare(self._location, options, inspection, fetching)
        if not prepared.plan.refusals:
            insist_on_passphrases(prepared)
        job.tell(self._decide, prepared)

    def _decide(self, prepared: "Prepared") -> None:
        if prepared.plan.refusals:
            text = Text("It will not be booted:\n")
            for refusal in prepared.plan.refusals:
                text.append(f"\n! {clean(refusal)}")
            self._say(text, esc="closes")
            return
        image = prepared.inspection.image
        hazards = [hazard for hazard in image.hazards if hazard.verdict is Verdict.ASK]
        writes = self._options.mode is Mode.WRITE
        if not hazards and not writes:
            self._boot(prepared)
            return
        self._waiting = prepared
        text = Text("Before it boots:\n") if hazards else Text()
        for hazard in hazards:
            text.append(f"\n? {clean(hazard.text)}")
        if not writes:
            self._say(text, esc="leaves it", more=(("y", "boots it all the same"),))
            return
        if hazards:
            text.append("\n\n")
        text.append(clean(prepared.warning or f"Write into {self._location}?"), "bold")
        text.append("\n\nWhat the guest writes goes into the image itself, for good.")
        self._say(text, esc="leaves it as it is", more=((f"{_YES}, enter", "boots it"),))
        line = self.query_one("#sure", Input)
        line.value = ""
        line.display = True
        line.focus()

    def _boot(self, prepared: "Prepared") -> None:
        self._say(Text("starting QEMU ..."), esc="does not wait; the guest will be among the guests (g)")

        def boot(job: Job) -> None:
            guest = self._engine.boot(prepared)
            job.tell(self._started, guest, encrypted(prepared.plan))

        self._job = start(self, boot, self._failed)

    def _started(self, guest: "SessionInfo", unlocked: list[Location]) -> None:
        cast("FarbootApp", self.app).unlocked(unlocked)
        self.dismiss(guest)

    def _failed(self, error: FarbootError) -> None:
        self._failed_once = True
        text = Text(f"{told(error, self._location)}: {error.why}")
        if error.hint:
            text.append(f"\n\n{error.hint}")
        if error.detail and error.detail not in str(error):
            text.append(f"\n\n{error.detail}", "dim")
        self._say(text, esc="closes", more=(("r", "tries again"),))
        if isinstance(error, Denied) and error.wants:
            cast("FarbootApp", self.app).ask_credentials(error, self._location, self._begin)

    def _say(self, text: Text, esc: str, more: tuple[tuple[str, str], ...] = ()) -> None:
        keys = Text()
        for key, meaning in (*more, ("esc", esc)):
            keys.append(key, "bold")
            keys.append(f" {meaning}    ")
        self.query_one("#starting", Static).update(text)
        self.query_one("#starting-keys", Static).update(keys)

    def action_cancel(self) -> None:
        """Do not wait for it; before QEMU is asked to start, that is the end of it."""
        if self._job is not None:
            self._job.cancel()
        self.dismiss(None)

    def action_yes(self) -> None:
        """Boot it in spite of what was said."""
        if self._options.mode is not Mode.WRITE:
            self._go_on()

    @on(Input.Submitted)
    def sure(self, event: Input.Submitted) -> None:
        """Boot it for writing, after the whole word; what means no leaves it, and anything else is asked again."""
        event.stop()
        answer = event.value.strip().casefold()
        if answer == _YES:
            event.input.display = False
            self.set_focus(None)
            self._go_on()
        elif answer in _NO:
            self.action_cancel()
        else:
            event.input.value = ""

    def on_key(self, event: events.Key) -> None:
        """What is typed while another part has the focus belongs into the line, once it is there."""
        line = self.query_one("#sure", Input)
        if line.display and event.is_printable and event.character and self.focused is not line:
            event.stop()
            line.insert_text_at_cursor(event.character)
            line.focus()

    def _go_on(self) -> None:
        prepared, self._waiting = self._waiting, None
        if prepared is not None:
            self._boot(prepared)

    def action_again(self) -> None:
        """Try again."""
        if self._failed_once:
            self._begin()
