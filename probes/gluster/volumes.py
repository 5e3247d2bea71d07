"""The volumes of a GlusterFS server, by its own program: libgfapi cannot list them."""

import os
import re
import shutil
import subprocess

from probes.errors import BadAnswer, Denied, MissingClient, TimedOut, Unreachable, Unsupported
from probes.location import Location

PORT = 24007

_REMEDY = "apt install glusterfs-cli or dnf install glusterfs-cli, or name a volume: gluster://host/volume/"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")  # what glusterd allows
_LONGEST = 4 << 20  # characters of an answer


def volumes(location: Location, deadline: float, tried: str) -> list[str]:
    """Return the names of the volumes. Raises MissingClient, Unreachable, TimedOut, Denied, Unsupported, BadAnswer."""
    program = shutil.which("gluster", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if program is None:
        raise MissingClient(tried, location, "the program gluster, which knows the volumes, is not installed", _REMEDY)
    if location.port not in {None, PORT}:
        why = f"the program gluster asks port {PORT} and no other"
        raise Unsupported(tried, location, why, f"name a volume: gluster://{location.authority}/volume/")
    argv = [program, f"--remote-host={location.host}", "--mode=script", "--log-file=/dev/null", "volume", "list"]
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=deadline,
            check=False,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise TimedOut(tried, location, f"glusterd did not answer within {deadline:g} s") from None
    except OSError as error:
        raise MissingClient(tried, location, f"{program} cannot be run: {error.strerror}", _REMEDY) from None
    said = done.stdout[:_LONGEST]
    if done.returncode:
        raise _failure(f"{said} {done.stderr[:_LONGEST]}".strip(), location, tried)
    if "No volumes present" in said + done.stderr:
        return []
    names = said.split("\n")[:-1]
    if not all(_NAME.fullmatch(name) for name in names):
        raise BadAnswer(tried, location, "the program gluster told names that no volume has", detail=said)
    return names


def _failure(words: str, location: Location, tried: str) -> Exception:
    if "No volumes present" in words:
        return BadAnswer(tried, location, words)
    if "Connection failed" in words:
        why = f"nobody answers at {location.host} port {PORT}"
        return Unreachable(
            tried, location, why, "is glusterd running, and does a firewall let its port through?", words
        )
    if "ermission" in words or "denied" in words:
        return Denied(tried, location, "glusterd does not answer this host", "its auth.allow decides", words)
    return BadAnswer(tried, location, words or "the program gluster says no reason")
