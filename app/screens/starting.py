"""Starting a guest: what is being done, what must be asked, and what went wrong."""

from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from app.background import Job, start
from app.screens.contract import Engine
from probes.errors import Denied, FarbootError
from probes.image import Verdict
from probes.location import Location
from probes.text import clean
from widgets.facts import told

if TYPE_CHECKING:
    from app.engine import Prepared
    from app.qemu.sessions.session import SessionInfo
    from app.tui import FarbootApp


class Starting(ModalScreen["SessionInfo | None"]):
    """Boots the image at `location`, read-only under a throwaway overlay; gives the guest, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel"),
        Binding("y", "yes", "Boot it", show=False),
        Binding("r", "again", "Try again", show=False),
    ]

    def __init__(self, engine: Engine, location: Location) -> None:
        super().__init__()
        self._engine = engine
        self._location = location
        self._job: Job | None = None
        self._waiting: Prepared | None = None
        self._failed_once = False

    def compose(self) -> ComposeResult:
        """Title, how far it is, keys."""
        with Vertical(classes="dialog"):
            title = Text(f"Boot {clean(self._location.name)}", overflow="ellipsis", no_wrap=True)
            yield Static(title, classes="dialog-title")
            with VerticalScroll(classes="dialog-text"):
                yield Static(id="starting")
            yield Static(id="starting-keys", classes="dialog-keys")

    def on_mount(self) -> None:
        """Begin."""
        self._begin()

    def _begin(self) -> None:
        self._failed_once = False
        self._say(Text("reading the image ..."), esc="leaves it")
        self._job = start(self, self._prepare, self._failed)

    def _prepare(self, job: Job) -> None:
        from app.qemu.options import Options

        inspection = self._engine.inspect(self._location)
        job.tell(self._say, Text("working out the command ..."), esc="leaves it")
        prepared = self._engine.prepare(self._location, Options(), inspection)
        job.tell(self._decide, prepared)

    def _decide(self, prepared: "Prepared") -> None:
        if prepared.plan.refusals:
            text = Text("It will not be booted:\n")
            for refusal in prepared.plan.refusals:
                text.append(f"\n! {clean(refusal)}")
            self._say(text, esc="closes")
        elif prepared.inspection.image.verdict is Verdict.ASK:
            self._waiting = prepared
            text = Text("Before it boots:\n")
            for hazard in prepared.inspection.image.hazards:
                text.append(f"\n? {clean(hazard.text)}")
            self._say(text, esc="leaves it", more=(("y", "boots it all the same"),))
        else:
            self._boot(prepared)

    def _boot(self, prepared: "Prepared") -> None:
        self._say(Text("starting QEMU ..."), esc="does not wait; the guest will be among the guests (g)")

        def boot(job: Job) -> None:
            guest = self._engine.boot(prepared)
            job.tell(self._started, guest)

        self._job = start(self, boot, self._failed)

    def _started(self, guest: "SessionInfo") -> None:
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
        prepared, self._waiting = self._waiting, None
        if prepared is not None:
            self._boot(prepared)

    def action_again(self) -> None:
        """Try again."""
        if self._failed_once:
            self._begin()
