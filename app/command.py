"""How this very Farboot is started again, for its helpers and for the scripts that it prints."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The directory that holds `app`, `probes` and `widgets`: the checkout, or the wheel's private directory."""


def self_command() -> tuple[str, ...]:
    """Return the argv prefix that runs this Farboot, whatever the current folder is.

    The installed command where that is this Farboot's, else this Python with the way to our modules.
    """
    script = os.path.join(os.path.dirname(sys.executable), "farboot")
    if os.access(script, os.X_OK) and _installs_us():
        return (script,)
    # -P: a module that lies in the current folder is none of ours.
    return ("env", f"PYTHONPATH={':'.join(_ways())}", sys.executable, "-P", "-m", "app")


def _ways() -> list[str]:
    """Where modules lie: ours, and where this process was told to look. A relative way would depend on the folder."""
    told = os.environ.get("PYTHONPATH", "").split(":")
    return list(dict.fromkeys([str(ROOT), *(way for way in told if os.path.isabs(way))]))


def _installs_us() -> bool:
    try:
        found = importlib.util.find_spec("farboot")
    except (ImportError, ValueError):
        return False
    places = list(found.submodule_search_locations or []) if found else []
    return any(Path(place).resolve() in {ROOT, ROOT / "app" / "launch"} for place in places)
