"""How the command line speaks: tables, JSON, errors and exit codes."""

import json
import sys
from collections.abc import Iterable, Sequence

from probes.errors import FarbootError
from probes.text import clean

DONE, FAILED, USAGE, REFUSED, TIMED_OUT = 0, 1, 2, 3, 4


def say(text: str = "") -> None:
    """Print a line of the answer. Undecodable characters are kept as the bytes they were."""
    data = (text + "\n").encode(sys.stdout.encoding or "utf-8", "surrogateescape")
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def tell(text: str) -> None:
    """Print a line beside the answer, to standard error."""
    print(f"farboot: {clean(text)}", file=sys.stderr)


def say_json(value: object) -> None:
    """Print the answer as JSON, in ASCII: it holds any name exactly, and no terminal acts on it."""
    say(json.dumps(value, indent=2))


def complain(error: FarbootError, verbose: bool = False, as_json: bool = False) -> int:
    """Report `error` in one line (the detail too, if `verbose`), as an object as well, and return the exit code."""
    if as_json:
        say_json(error.as_json() | ({"detail": error.detail} if verbose else {}))
    tell(str(error))
    if verbose and error.detail:
        tell(f"detail: {error.detail}")
    return error.exit_status


def complain_to_supervisor(error: FarbootError) -> int:
    """Report `error` as one line of JSON on standard error, and return the exit code."""
    from app.qemu.sessions.wire import error_to_json

    print(json.dumps(error_to_json(error)), file=sys.stderr)
    return error.exit_status


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> Iterable[str]:
    """Yield lines with columns aligned; the columns in `right` to the right, the last one ragged."""
    cells = [tuple(headings), *[tuple(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    right = set(right)
    for row in cells:
        padded = [
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(padded).rstrip()
