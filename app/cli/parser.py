"""What can be typed: `farboot [LOCATION]`, or `farboot COMMAND …`."""

import argparse
import re
from importlib.metadata import PackageNotFoundError, version

from app.qemu.options import DiskWish, FirmwareWish, Network
from app.qemu.steps import UNLOCKS
from probes.attachment import RouteWish
from probes.evidence import Evidence

_LOCATIONS = """\
a LOCATION is what QEMU takes, and cut short it is the place to list:
  http://host:8000/dir/  https://host/a.qcow2          web servers (read-only)
  rbd:  rbd:pool  rbd:pool/image  rbd:pool/image@snap  Ceph
  nfs://host/  nfs://host/export/a.qcow2               NFS
  iscsi://host/  iscsi://host/target/1                 iSCSI: portal, target, LUN
  ssh://host/dir/  ssh://user@host/dir/a.qcow2         SSH, as ~/.ssh/config says
  ftp://host/dir/  ftps://host/a.iso                   FTP (read-only)
  tftp://host/a.iso                                    TFTP (read-only, no lists)
  nbd://host/  nbds://host/export                      NBD; nbds with TLS
  nbd+unix:///export?socket=/run/nbd.sock              NBD on a Unix socket
  gluster://host/  gluster://host/volume/a.qcow2       GlusterFS
  sheepdog://host/  sheepdog://host/vdi#snapshot       Sheepdog
  host_device:  host_device:/dev/sdb                   this host's disks
  /srv/images/  ./image.iso                            this host's files

secrets: asked for at a terminal; else by --password-file and --key-file, or in
  the environment: FARBOOT_USERNAME, FARBOOT_PASSWORD, FARBOOT_KEY (cephx, TLS),
  FARBOOT_PASSPHRASE (ssh), FARBOOT_IMAGE_PASSPHRASE (encrypted images),
  FARBOOT_COOKIE, and the files FARBOOT_CA_FILE, FARBOOT_CLIENT_CERT,
  FARBOOT_CLIENT_KEY
exit codes: 0 done, 1 failed, 2 usage (and --write without a yes), 3 refused
  because of what the image is, 4 time-out of --wait
"""
COMMANDS = {
    "ls": "list a place",
    "inspect": "say what an image is",
    "command": "print what boot would run, as a shell script",
    "boot": "start a guest from an image",
    "fetch": "fetch an image whole, where its server can be read in no other way (tftp)",
    "ps": "list the guests that run",
    "console": "talk to a guest's serial line; Ctrl-] leaves",
    "screen": "save a guest's screen as PNG",
    "stop": "shut a guest down",
    "forget": "delete what the system's keyring holds for a server",
    "doctor": "say what this host can do, and what is missing",
    "demo": "open the demonstration: bootable images on a web server of its own",
}
_HIDDEN = ("agent", "bridge", "secret", "demo-server")


def memory_size(text: str) -> int:
    """Parse `2G`, `512M` or a number of MiB, as QEMU's -m does; in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 2G or 512M")
    size = int(float(match[1]) * 1024 ** ("KMGT".index(match[2].upper()) + 1 if match[2] else 2))
    if size < 1 << 20:
        raise argparse.ArgumentTypeError(f"{text!r} is less than 1M")
    return size


def positive(text: str) -> int:
    """Parse a whole number from 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def seconds(text: str) -> float:
    """Parse a time in seconds, more than none."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; `command` is "tui" when none is named. Exits with 2 on wrong usage."""
    first = next((word for word in arguments if not word.startswith("-")), None)
    if first in COMMANDS or first in _HIDDEN:
        return _commands().parse_args(arguments)
    return _tui().parse_args(arguments)


def _version() -> str:
    try:
        return f"farboot {version('farboot')}"
    except PackageNotFoundError:
        return "farboot (from a checkout)"


def _tui() -> argparse.ArgumentParser:
    listed = "\n".join(f"  farboot {name:8}  {what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="farboot",
        description="Browse disk images where they are stored, see what each one is, and boot it with one key.",
        epilog=f"commands (farboot COMMAND --help tells more):\n{listed}\n\n{_LOCATIONS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command="tui", json=False)
    parser.add_argument("location", nargs="?", metavar="LOCATION", help="where to start")
    parser.add_argument("--version", action="version", version=_version())
    _add_common(parser)
    _add_credentials(parser)
    return parser


def _commands() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    _add_common(shared)
    secrets = argparse.ArgumentParser(add_help=False)
    _add_credentials(secrets)
    parser = argparse.ArgumentParser(prog="farboot", parents=[shared], add_help=False)
    subparsers = parser.add_subparsers(dest="command", required=True)

    def command(name: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        text = COMMANDS.get(name, "used by Farboot's own scripts")
        return subparsers.add_parser(
            name,
            description=text[0].upper() + text[1:] + ".",
            parents=[shared, *parents],
            epilog=_LOCATIONS if secrets in parents else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    for name in ("ls", "inspect"):
        listed = command(name, secrets)
        listed.add_argument("location", metavar="LOCATION")
        _add_json(listed)
    for name in ("command", "boot"):
        _add_boot(command(name, secrets), started=name == "boot")
    fetch = command("fetch", secrets)
    fetch.add_argument("location", metavar="LOCATION")
    fetch.add_argument("--again", action="store_true", help="even where a copy lies here that seems good")
    _add_json(command("ps"))
    command("console").add_argument("id", metavar="ID")
    screen = command("screen")
    screen.add_argument("id", metavar="ID")
    screen.add_argument("file", metavar="FILE.png")
    stop = command("stop")
    stop.add_argument("id", metavar="ID")
    stop.add_argument("--force", action="store_true", help="pull the plug instead of pressing the power button")
    command("forget").add_argument("location", metavar="LOCATION")
    _add_json(command("doctor"))
    command("demo")
    command("demo-server").add_argument("folder")
    secret = command("secret", secrets)
    secret.add_argument("location")
    secret.add_argument("field", choices=("password", "key", "cookie", UNLOCKS))
    _add_bridge(command("bridge", secrets))
    _add_agent(command("agent", secrets))
    parser.set_defaults(json=False)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", "-v", action="store_true", default=False, help="add the detail to errors")
    parser.add_argument(
        "--deadline",
        type=seconds,
        metavar="S",
        help="seconds that one request may take (default: the settings', or 10)",
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON; an error is an object with `error`")


def _add_credentials(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("credentials, for the server of LOCATION alone")
    group.add_argument("--user", metavar="NAME", help="user name")
    group.add_argument("--password-file", metavar="FILE", help="file that holds the password; - is standard input")
    group.add_argument("--key-file", metavar="FILE", help="file that holds the cephx key in base64")
    group.add_argument(
        "--image-passphrase-file", metavar="FILE", help="file that holds the passphrase of an encrypted image"
    )
    group.add_argument(
        "--save-credentials", action="store_true", help="keep them in the system's keyring once they let us in"
    )
    group.add_argument("--ca-file", metavar="FILE", help="PEM file of certificate authorities to trust as well")


def _add_boot(parser: argparse.ArgumentParser, started: bool) -> None:
    parser.add_argument("location", metavar="LOCATION")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--snapshot", action="store_true", help="throw away what the guest writes (the default)")
    mode.add_argument("--write", action="store_true", help="let the guest write into the image itself, after a yes")
    parser.add_argument("--memory", type=memory_size, metavar="SIZE", help="the guest's memory, such as 2G")
    parser.add_argument("--cpus", type=positive, metavar="N", help="the guest's CPUs")
    parser.add_argument("--firmware", choices=[wish.value for wish in FirmwareWish], default="auto")
    parser.add_argument(
        "--network",
        choices=[network.value for network in Network],
        help="restricted: a card, nothing reachable (default for the web's images); user: outgoing (default for yours)",
    )
    parser.add_argument(
        "--route",
        choices=[wish.value for wish in RouteWish],
        default="auto",
        help="direct: QEMU's own driver; bridge: Farboot reads for QEMU; auto: the former where it is sound",
    )
    parser.add_argument(
        "--disk",
        choices=[wish.value for wish in DiskWish],
        default="auto",
        help="the drive that the guest sees (default: what the guest has drivers for; a CD drive for CDs)",
    )
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="CODE",
        help="say yes to what inspect marks with `ask`, by its code, such as backing-file; may be given again",
    )
    _add_json(parser)
    if started:
        parser.add_argument("--yes", action="store_true", help="answer the question of --write with yes")
        parser.add_argument("--wait", metavar="TEXT", help="return once the serial line shows TEXT")
        parser.add_argument("--timeout", type=seconds, default=120.0, metavar="S", help="of --wait (default 120)")
        parser.add_argument("--console", action="store_true", help="talk to the serial line; Ctrl-] leaves")


def _add_bridge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("location")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--validator", default="")
    parser.add_argument("--evidence", type=Evidence.parse, default="")
    parser.add_argument("--format", default="raw")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--credentials-stdin", action="store_true")


def _add_agent(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("location")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--key", required=True, metavar="SHA256:…")
    parser.add_argument("--credentials-stdin", action="store_true")
