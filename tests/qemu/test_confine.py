"""What a confined QEMU can see and do, for real: as root and as a user."""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from app.qemu.boot.confine import FOLDER, confinement
from app.qemu.host.binary import SANDBOX
from app.qemu.host.find import find_host
from app.qemu.options import Host
from tests.qemu.layers import HOST, USER_HOST

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
BACKING = "/etc/hostname"


class Cell:
    """A confinement of this host, and a folder for its guest."""

    def __init__(self, host: Host, folder: Path, outer: Sequence[str]) -> None:
        self.host = host
        self.folder = folder
        self.outer = outer
        owner = NOBODY if outer else host.guest_uid
        if owner is not None:
            os.chown(folder, owner, owner)

    def run(
        self, *argv: str, network: bool = False, pass_fds: Sequence[int] = ()
    ) -> "subprocess.CompletedProcess[str]":
        prefix = [word.replace(FOLDER, str(self.folder)) for word in confinement(self.host, network)]
        return subprocess.run(
            [*self.outer, *prefix, *argv],
            capture_output=True, text=True, timeout=60, check=False, cwd="/", pass_fds=pass_fds,
            env={**os.environ, "HTTP_PROXY": "http://somebody:secret@h/"},
        )  # fmt: skip

    def says(self, *argv: str, network: bool = False) -> str:
        done = self.run(*argv, network=network)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(params=["root", "user"])
def cell(request: pytest.FixtureRequest, open_folder: Callable[[str], Path]) -> Cell:
    host = find_host()
    assert host.bwrap, "these tests need bubblewrap to work"
    folder = open_folder("cell")
    if request.param == "root":
        return Cell(replace(host, accelerator="tcg"), folder, ())
    plain = replace(host, root=False, setpriv=None, guest_uid=None, accelerator="tcg")
    return Cell(plain, folder, AS_NOBODY if os.geteuid() == 0 else ())


def test_it_sees_programs_and_its_own_folder_and_no_other_place(cell: Cell) -> None:
    seen = set(cell.says("ls", "-A", "/").split())
    assert seen <= {
        "usr",
        "bin",
        "sbin",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "etc",
        "guest",
        "tmp",
        "proc",
        "dev",
        "nix",
        "gnu",
    }
    assert not {"passwd", "shadow", "hostname", "ssh", "ceph"} & set(cell.says("ls", "-A", "/etc").split())
    assert cell.says("pwd").strip() == "/guest"


@pytest.mark.parametrize("path", ["/root", "/home", "/run", "/sys", "/etc/shadow", "/etc/ssl/private"])
def test_what_belongs_to_the_host_is_not_there(cell: Cell, path: str) -> None:
    assert "No such file or directory" in cell.run("ls", path).stderr


def test_what_it_calls_tmp_is_its_own_folder(cell: Cell) -> None:
    """libgfapi keeps a volume's description in /tmp, whatever TMPDIR says."""
    assert cell.says("readlink", "/tmp").strip() == "/guest"


def test_it_can_write_its_own_folder_and_nothing_else(cell: Cell) -> None:
    assert cell.run("touch", "overlay").returncode == 0
    for path in ("/usr/x", "/etc/x", "/etc/hosts", "/x"):
        assert cell.run("sh", "-c", 'echo >>"$1"', "sh", path).returncode != 0, path
    assert os.listdir(cell.folder) == ["overlay"]


def test_it_has_no_right_but_low_ports(cell: Cell) -> None:
    status = dict(line.split(":\t", 1) for line in cell.says("cat", "/proc/self/status").splitlines() if ":\t" in line)
    low_ports = 1 << 10
    assert {int(status[name], 16) & ~low_ports for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh")} == {0}
    assert status["NoNewPrivs"] == "1"
    uid = cell.says("id", "-u").strip()
    assert uid == str(cell.host.guest_uid if cell.host.root else NOBODY)
    assert status["Groups"].split() in ([], [str(NOBODY)])


def test_it_sees_no_process_and_no_environment_of_ours(cell: Cell) -> None:
    assert len([entry for entry in cell.says("ls", "/proc").split() if entry.isdigit()]) <= 3
    environment = dict(line.split("=", 1) for line in cell.says("env").splitlines())
    assert set(environment) - {"PWD", "SHLVL", "_"} == {"PATH", "LC_ALL", "HOME", "TMPDIR"}
    assert environment["TMPDIR"] == "/guest"


def test_it_is_off_the_network_unless_it_needs_it(cell: Cell) -> None:
    def interfaces(network: bool) -> set[str]:
        text = cell.says("cat", "/proc/net/dev", network=network)
        return {line.split(":")[0].strip() for line in text.splitlines() if ":" in line}

    assert interfaces(network=False) == {"lo"}
    with open("/proc/net/dev", encoding="ascii") as file:
        assert interfaces(network=True) == {line.split(":")[0].strip() for line in file if ":" in line}


def test_it_reads_what_name_resolution_and_tls_need(cell: Cell) -> None:
    for path in cell.host.reads:
        assert cell.run("ls", path, network=True).returncode == 0, path


def test_it_resolves_names_when_it_may_use_the_network(cell: Cell) -> None:
    assert cell.says("getent", "hosts", "localhost", network=True).split()[-1] == "localhost"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A qcow2 that names a file of the host as its backing file."""
    path = tmp_path / "hostile.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", BACKING, "-F", "raw", str(path), "64K"], check=True
    )
    return path


def open_unjudged(run: Callable[..., "subprocess.CompletedProcess[str]"], path: Path) -> str:
    """Let QEMU open the image as no plan would, its backing file left to it; return its complaint."""
    with open(path, "rb") as image:
        fd = image.fileno()
        file = {"driver": "file", "filename": f"/dev/fdset/{fd}"}
        node = {"driver": "qcow2", "node-name": "x", "read-only": True, "file": file}
        argv = ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", *SANDBOX]
        argv += ["-add-fd", f"fd={fd},set={fd}", "-blockdev", json.dumps(node), "-qmp", "stdio"]
        return run(*argv, pass_fds=(fd,)).stderr


def test_a_misjudged_image_finds_no_file_of_the_host_to_read(cell: Cell, hostile: Path) -> None:
    assert f"Could not open '{BACKING}': No such file or directory" in open_unjudged(cell.run, hostile)


def test_and_without_confinement_it_would(hostile: Path) -> None:
    def bare(*argv: str, pass_fds: Sequence[int]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=False,
            pass_fds=pass_fds,
            timeout=60,
            input='{"execute":"qmp_capabilities"}{"execute":"quit"}',
        )

    assert "No such file" not in open_unjudged(bare, hostile)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives guests another account")
def test_without_bubblewrap_qemu_still_is_an_account_without_rights(open_folder: Callable[[str], Path]) -> None:
    cell = Cell(replace(find_host(), bwrap=None, netns=False), open_folder("cell"), ())
    assert cell.says("id", "-u").strip() == str(cell.host.guest_uid)
    quits = '{"execute":"qmp_capabilities"}{"execute":"quit"}'
    qemu = ("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", *SANDBOX, "-qmp", "stdio")
    assert '"event": "SHUTDOWN"' in cell.says("sh", "-c", f"echo '{quits}' | \"$@\"", "sh", *qemu)


# The words of it


def test_the_prefix_is_worked_out_from_facts_alone() -> None:
    assert confinement(HOST, network=True, reads=("/srv/ca.pem",)) == (
        "/usr/bin/bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
        "--cap-add", "ALL", "--die-with-parent", "--new-session",
        "--dir", "/etc", "--dir", "/srv",
        "--ro-bind", "/usr", "/usr", "--ro-bind", "/lib", "/lib", "--ro-bind", "/etc/hosts", "/etc/hosts",
        "--ro-bind", "/srv/ca.pem", "/srv/ca.pem", "--proc", "/proc", "--dev", "/dev",
        "--dev-bind", "/dev/kvm", "/dev/kvm", "--symlink", "/guest", "/tmp",
        "--bind", "{folder}", "/guest", "--chdir", "/guest",
        "--remount-ro", "/", "--",
        "/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=/guest", "TMPDIR=/guest",
        "/usr/bin/setpriv", "--reuid", "1900000001", "--regid", "1900000001", "--groups", "104",
        "--bounding-set", "-all,+net_bind_service", "--inh-caps", "-all,+net_bind_service",
        "--ambient-caps", "-all,+net_bind_service", "--no-new-privs", "--pdeathsig", "KILL",
    )  # fmt: skip


def test_a_path_within_another_is_bound_once() -> None:
    words = confinement(USER_HOST, network=True, reads=("/usr/share/x", "/lib/", "/library"))
    bound = [words[index + 1] for index, word in enumerate(words) if word == "--ro-bind"]
    assert bound == ["/usr", "/lib", "/etc/hosts", "/library"]


def test_root_without_setpriv_at_least_loses_its_capabilities() -> None:
    words = confinement(replace(HOST, setpriv=None, guest_uid=None), network=True)
    assert words[words.index("--cap-drop") + 1] == "ALL"
    assert words[-1] == "TMPDIR=/guest"


def test_without_bubblewrap_the_account_remains() -> None:
    assert confinement(replace(HOST, bwrap=None), network=False)[0] == "/usr/bin/setpriv"
    assert confinement(replace(USER_HOST, bwrap=None), network=False) == ()
