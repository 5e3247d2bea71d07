"""The last line of every room: the keys that do something here and now."""

from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.strip import Strip
from textual.widget import Widget

_LAST = ("app.guests", "app.help", "app.leave")


class KeyBar(Widget):
    """As many of the shown bindings as fit, in their order; those of every room come last, and always."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"keybar--key", "keybar--what"}
    DEFAULT_CSS = "KeyBar { height: 1; dock: bottom; }"

    def __init__(self) -> None:
        super().__init__()
        self._shown: list[tuple[int, int, str]] = []

    def on_mount(self) -> None:
        """Follow the bindings of the screen."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _screen: self.refresh())

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        keys = self._keys()
        always = [keys.pop(action) for action in _LAST if action in keys]
        room = width - 1 - sum(_width(key) for key in always)
        chosen = []
        for key in keys.values():
            if _width(key) > room:
                break
            room -= _width(key)
            chosen.append(key)
        return self._draw(chosen + always).adjust_cell_length(width, self.rich_style)

    def _keys(self) -> dict[str, tuple[str, str, str]]:
        found: dict[str, tuple[str, str, str]] = {}
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if binding.show and active.enabled and binding.action not in found:
                found[binding.action] = (binding.key, self.app.get_key_display(binding), binding.description)
        return found

    def _draw(self, keys: list[tuple[str, str, str]]) -> Strip:
        base = self.rich_style
        style = self.get_component_rich_style("keybar--key")
        what = self.get_component_rich_style("keybar--what")
        segments, x = [Segment(" ", base)], 1
        self._shown = []
        for key, display, description in keys:
            end = x + _width((key, display, description))
            self._shown.append((x, end, key))
            segments += [Segment(display, style), Segment(f" {description}  ", what)]
            x = end
        return Strip(segments)

    def on_click(self, event: events.Click) -> None:
        """A click on a key is that key."""
        for start, end, key in self._shown:
            if start <= event.x < end:
                self.app.simulate_key(key)


def _width(key: tuple[str, str, str]) -> int:
    return cell_len(key[1]) + cell_len(key[2]) + 3
