"""What is found out about this host, and about hosts that lack something."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.command import self_command
from app.qemu.host import binary
from app.qemu.host.binary import ask_binary, find_qemu, find_qemu_img, module_folders
from app.qemu.host.doctor import examine, lines
from app.qemu.host.find import find_host, fresh_host
from app.qemu.host.firmware import FOLDERS, find_uefi
from app.qemu.host.remembered import cache_folder, remember
from app.qemu.host.resources import free_memory, usable_cpus
from app.qemu.options import Pflash
from probes.attachment import RouteWish
from probes.errors import Crashed, MissingClient, TimedOut
from probes.known.root import Root

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "farboot"


# The binary


def test_the_binary_tells_its_version_and_the_drivers_that_load() -> None:
    said = ask_binary(find_qemu())
    printed = subprocess.run([find_qemu(), "--version"], capture_output=True, text=True, check=True).stdout
    assert ".".join(map(str, said.version)) in printed
    assert {"file", "host_device", "http", "https", "nbd", "rbd", "raw", "qcow2", "vmdk"} <= said.drivers
    assert not {"tftp", "sheepdog"} & said.drivers


def in_a_world_without(folder: Path, code: str, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    """Run Python code where `folder` holds only QEMU's accelerators."""
    rest = tmp_path / "modules"
    rest.mkdir()
    for module in folder.glob("accel-*.so"):
        (rest / module.name).write_bytes(module.read_bytes())
    argv = ["bwrap", "--dev-bind", "/", "/", "--bind", str(rest), str(folder), sys.executable, "-c", code]
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def test_a_driver_whose_module_is_missing_does_not_count(tmp_path: Path) -> None:
    modules = next(Path(folder) for folder in module_folders(find_qemu()) if list(Path(folder).glob("block-*.so")))
    code = "from app.qemu.host.binary import *; print(*sorted(ask_binary(find_qemu()).drivers))"
    done = in_a_world_without(modules, code, tmp_path)
    assert done.returncode == 0, done.stderr
    present = set(done.stdout.split())
    assert {"file", "host_device", "nbd", "raw", "qcow2"} <= present
    assert not {"http", "https", "rbd", "nfs", "iscsi", "ssh"} & present
    listed = in_a_world_without_listing(modules)
    assert "rbd" in listed  # which QEMU itself would have one believe


def in_a_world_without_listing(folder: Path) -> str:
    argv = ["bwrap", "--dev-bind", "/", "/", "--tmpfs", str(folder), find_qemu(), "-drive", "format=?"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def test_the_answer_is_remembered_until_the_binary_changes(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    fake = tmp_path / "qemu"

    def write(version: int) -> None:
        answer = {"id": "version", "return": {"qemu": {"major": version, "minor": 1, "micro": 2}}}
        fake.write_text(f"#!/bin/sh\necho asked >>{asked}\ncat >/dev/null\necho '{json.dumps(answer)}'\n")
        fake.chmod(0o755)

    write(9)
    assert [ask_binary(str(fake)).version for _ in range(2)] == [(9, 1, 2)] * 2
    assert asked.read_text() == "asked\n"
    write(10)
    assert ask_binary(str(fake)).version == (10, 1, 2)


def test_a_qemu_without_the_sandbox_is_asked_without_it(tmp_path: Path) -> None:
    fake = tmp_path / "qemu"
    fake.write_text(
        "#!/bin/sh\n"
        'case "$*" in *-sandbox*) echo "qemu: -sandbox on: There is no option group" >&2; exit 1;; esac\n'
        'cat >/dev/null; echo \'{"id":"version","return":{"qemu":{"major":8,"minor":0,"micro":0}}}\'\n'
    )
    fake.chmod(0o755)
    assert ask_binary(str(fake)).sandbox is False


def test_a_qemu_that_does_not_start_says_why(tmp_path: Path) -> None:
    fake = tmp_path / "qemu"
    fake.write_text("#!/bin/sh\necho 'qemu: error while loading shared libraries: libx.so' >&2; exit 127\n")
    fake.chmod(0o755)
    with pytest.raises(Crashed, match="error while loading shared libraries"):
        ask_binary(str(fake))


def test_a_qemu_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "_DEADLINE", 0.2)
    fake = tmp_path / "qemu"
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    fake.chmod(0o755)
    with pytest.raises(TimedOut):
        ask_binary(str(fake))


def test_without_qemu_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "_NAMES", ("qemu-absent", "/usr/libexec/qemu-absent"))
    with pytest.raises(MissingClient, match="apt install qemu-system-x86 or dnf install qemu-kvm"):
        find_host()
    report = examine()
    assert not report.ready
    assert any("qemu-system-x86" in line for line in lines(report))


def test_without_qemu_img_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingClient, match="qemu-utils"):
        find_qemu_img()


# The host


def test_this_host_is_known_whole_and_nothing_is_run_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    host = find_host()
    assert os.path.isabs(host.qemu)
    assert host.memory > 0
    assert host.cpus >= 1
    assert {"/usr", "/etc/hosts"} <= set(host.reads)
    assert all(os.path.exists(path) for path in host.reads)
    monkeypatch.setattr(subprocess, "run", None)
    again = find_host(RouteWish.BRIDGE)
    assert again.facts == replace(host.facts, route=RouteWish.BRIDGE)
    assert (again.accelerator, again.bwrap, again.uefi) == (host.accelerator, host.bwrap, host.uefi)


def test_each_guest_has_an_account_of_its_own() -> None:
    host = replace(find_host(), guest_uid=1_900_000_000)
    uids = {fresh_host(host).guest_uid for _ in range(20)}
    assert len(uids) > 15
    assert all(uid is not None and uid > 60_000 for uid in uids)
    assert fresh_host(replace(host, guest_uid=None)).guest_uid is None


def test_farboot_starts_again_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run([*self_command(), "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "farboot" in done.stdout


def test_farboot_started_again_looks_for_modules_where_it_was_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.command._installs_us", lambda: False)
    monkeypatch.setenv("PYTHONPATH", "/opt/packages::relative:/opt/packages")
    ways = self_command()[1].removeprefix("PYTHONPATH=").split(":")
    assert ways[1:] == ["/opt/packages"]


def test_a_bubblewrap_that_cannot_work_is_not_used_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    host = find_host()
    assert host.bwrap is None
    assert not host.netns
    assert any("Permission denied" in text and "sees the files" in text for text in host.missing)


def test_a_bubblewrap_without_network_namespaces_is_used_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = tmp_path / "bwrap"
    limited.write_text(
        '#!/bin/sh\ncase "$*" in *--unshare-net*) echo "bwrap: loopback: Failed RTM_NEWADDR" >&2; exit 1;; esac\n'
    )
    limited.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    host = find_host()
    assert (host.bwrap, host.netns) == (str(limited), False)
    assert any("network of their own" in text for text in host.missing)


# What is remembered


def test_what_cannot_be_remembered_is_found_out_again(cache: Path) -> None:
    assert remember("q", [1], lambda: {"a": 1}) == {"a": 1}
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert remember("q", [1], lambda: {"a": 2}) == {"a": 1}
    assert remember("q", [2], lambda: {"a": 3}) == {"a": 3}
    for damage in (b"", b"{", b"[]", b"\xff\xfe", b'{"key": [2]}'):
        (cache / "q.json").write_bytes(damage)
        assert remember("q", [2], lambda: {"a": 4}) == {"a": 4}


def test_a_cache_that_others_can_write_is_not_believed(cache: Path) -> None:
    remember("q", [1], lambda: "mine")
    cache.chmod(0o777)
    assert cache_folder() is None
    assert remember("q", [1], lambda: "found out") == "found out"


def test_a_cache_that_is_a_link_is_not_followed(cache: Path, tmp_path: Path) -> None:
    cache.parent.mkdir()
    cache.symlink_to(tmp_path)
    assert cache_folder() is None


# Memory and processors, from trees as kernels show them


def write_tree(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


MEMINFO = "MemTotal: 16777216 kB\nMemFree: 100 kB\nMemAvailable: 8388608 kB\n"


@pytest.mark.parametrize(
    ("cgroup", "limits", "expected"),
    [
        ("0::/", {}, 8 << 30),
        ("", {}, 8 << 30),
        ("0::/a/b", {"a/memory.max": "9000\n", "a/memory.current": "1000\n", "a/b/memory.max": "max\n"}, 8000),
        (
            "0::/a",
            {"a/memory.max": "5000\n", "a/memory.current": "5000\n", "a/memory.stat": "anon 1\ninactive_file 4000\n"},
            4000,
        ),
        ("0::/a", {"a/memory.max": "5000\n", "a/memory.current": "6000\n"}, 0),
        ("4:memory:/x", {"memory/x/memory.limit_in_bytes": "7000\n", "memory/x/memory.usage_in_bytes": "1000\n"}, 6000),
        ("4:memory:/x", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8 << 30),
    ],
)  # fmt: skip
def test_free_memory_is_what_the_tightest_limit_leaves(
    tmp_path: Path, cgroup: str, limits: dict[str, str], expected: int
) -> None:
    proc = write_tree(tmp_path / "proc", {"meminfo": MEMINFO, "self/cgroup": cgroup + "\n"})
    assert free_memory(proc, write_tree(tmp_path / "cgroup", limits)) == expected


@pytest.mark.parametrize(
    ("cgroup", "limits", "expected"),
    [
        ("0::/a", {"a/cpu.max": "50000 100000\n"}, 1),
        ("0::/a", {"a/cpu.max": "max 100000\n"}, None),
        ("3:cpu,b:/x", {"cpu,b/x/cpu.cfs_quota_us": "100000\n", "cpu,b/x/cpu.cfs_period_us": "100000\n"}, 1),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("", {}, None),
    ],
)  # fmt: skip
def test_usable_processors_are_those_of_the_mask_or_the_quota(
    tmp_path: Path, cgroup: str, limits: dict[str, str], expected: int | None
) -> None:
    proc = write_tree(tmp_path / "proc", {"self/cgroup": cgroup + "\n"})
    assert usable_cpus(proc, write_tree(tmp_path / "cgroup", limits)) == (expected or len(os.sched_getaffinity(0)))


# Firmware


@pytest.fixture
def describe(tmp_path: Path) -> Callable[..., None]:
    """Write a firmware descriptor, its two files beside it."""

    def write(
        folder: str, name: str, features: tuple[str, ...] = (), machine: str = "pc-q35-*", **mapping: str
    ) -> None:
        home = tmp_path / folder
        home.mkdir(exist_ok=True)
        for kind in ("code", "vars"):
            (tmp_path / f"{name}.{kind}").touch()
        described = {
            "interface-types": ["uefi"],
            "mapping": {
                "device": "flash",
                "executable": {"filename": str(tmp_path / f"{name}.code"), "format": "qcow2"},
                "nvram-template": {"filename": str(tmp_path / f"{name}.vars"), "format": "qcow2"},
                **mapping,
            },
            "targets": [{"architecture": "x86_64", "machines": [machine]}],
            "features": list(features),
        }
        (home / f"{name}.json").write_text(json.dumps(described))

    return write


def test_the_first_descriptor_that_suits_is_taken(tmp_path: Path, describe: Callable[..., None]) -> None:
    describe("a", "10-secure", features=("secure-boot", "requires-smm"))
    describe("a", "20-micro", machine="microvm")
    describe("a", "30-memory", device="memory")
    describe("a", "40-good", features=("acpi-s3",))
    describe("b", "50-other")
    folders = (str(tmp_path / "a"), str(tmp_path / "b"))
    assert find_uefi(folders, ()) == Pflash(f"{tmp_path}/40-good.code", f"{tmp_path}/40-good.vars", "qcow2")


def test_an_earlier_folder_hides_a_later_ones_descriptor(tmp_path: Path, describe: Callable[..., None]) -> None:
    describe("b", "40-good")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "40-good.json").touch()
    assert find_uefi((str(tmp_path / "a"), str(tmp_path / "b")), ()) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"mapping": 1}', '{"mapping": {"executable": null}}'])
def test_a_broken_descriptor_is_passed_over(tmp_path: Path, describe: Callable[..., None], text: str) -> None:
    describe("a", "40-good")
    (tmp_path / "a" / "10-bad.json").write_text(text)
    assert find_uefi((str(tmp_path / "a"),), ()) is not None


def test_files_that_are_gone_are_passed_over(tmp_path: Path, describe: Callable[..., None]) -> None:
    describe("a", "40-good")
    (tmp_path / "40-good.vars").unlink()
    known = Pflash(str(tmp_path / "40-good.code"), str(tmp_path / "40-good.json"))
    assert find_uefi((str(tmp_path / "a"),), (known,)) is None


def test_this_hosts_firmware_is_found_either_way() -> None:
    assert find_uefi() is not None
    assert find_uefi(folders=()) is not None
    assert FOLDERS[-1] == "/usr/share/qemu/firmware"


# The doctor


def test_the_doctor_names_everything_and_what_would_mend_it() -> None:
    report = examine()
    told = "\n".join(lines(report))
    for word in (
        "qemu-img",
        "rbd",
        "https",
        "sheepdog",
        "KVM",
        "UEFI",
        "bubblewrap",
        "Web server",
        "Ceph RBD",
        "runtime",
    ):
        assert word in told
    assert all(len(line) < 200 and line.isprintable() for line in told.splitlines())
    described = report.as_json()
    assert described["ready"] is report.ready is True
    assert json.loads(json.dumps(described)) == described
    drivers = described["drivers"]
    assert isinstance(drivers, list)
    assert {driver["name"]: driver["present"] for driver in drivers}["sheepdog"] is False


def test_the_doctor_tells_what_it_may_not_read_and_why_nothing_can_be_saved(tmp_path: Path) -> None:
    class Shut(Root):
        def read(self, path: str) -> str:  # root may read everything
            self.unreadable.add(path)
            return ""

    told = "\n".join(lines(examine("this session has no keyring", Shut(str(tmp_path)))))
    assert re.search(r"--  /etc/fstab +this account may not read it", told)
    assert re.search(r"--  keyring +this session has no keyring", told)
    assert re.search(r"ok  keyring +credentials can be saved", "\n".join(lines(examine(root=Root(str(tmp_path))))))


def test_the_doctor_names_the_package_of_a_missing_driver(tmp_path: Path) -> None:
    modules = next(Path(folder) for folder in module_folders(find_qemu()) if list(Path(folder).glob("block-*.so")))
    code = "from app.qemu.host.doctor import *; print('\\n'.join(lines(examine())))"
    done = in_a_world_without(modules, code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--  rbd" in done.stdout
    assert "apt install qemu-block-extra or dnf install qemu-block-rbd" in done.stdout
