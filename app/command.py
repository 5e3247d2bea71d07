"""How this very Farboot is started again, for its helpers and for the scripts that it prints."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The directory that holds `app`, `probes` and `widgets`: the checkout, or the wheel's private directory."""


def self_command() -> tuple[str, ...]:
    """Return the argv prefix that runs this Farboot, whatever the current folder is."""
    typed = sys.argv[0]
    if os.path.basename(typed) == "farboot" and os.access(typed, os.X_OK):
        return (os.path.abspath(typed),)
    beside = Path(sys.executable).with_name("farboot")
    if beside.exists() and _is_editable_or_ours():
        return (str(beside),)
    return ("/usr/bin/env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "app")


def _is_editable_or_ours() -> bool:
    import importlib.util

    try:
        found = importlib.util.find_spec("farboot")
    except (ImportError, ValueError):
        return False
    places = list(found.submodule_search_locations or []) if found else []
    return any(Path(place).resolve() in {ROOT, ROOT / "app" / "launch"} for place in places)
