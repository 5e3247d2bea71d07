"""An accelerator is believed only after it has run a guest."""

import os
from pathlib import Path

import pytest

from app.qemu.host import accelerator as module
from app.qemu.host.accelerator import BOOT_SECTOR, Accelerator, find_accelerator, run_trial
from app.qemu.host.binary import find_qemu


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def kvm(tmp_path: Path) -> Path:
    """Stands for /dev/kvm where only its rights matter: those of the real one are not ours to change."""
    path = tmp_path / "kvm"
    path.touch()
    path.chmod(0o666)
    return path


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is true of a machine must not depend on how busy it is."""
    monkeypatch.setattr(module, "LIMIT", 12.0)


class FakeQemu:
    """A QEMU that behaves as a broken one does, for those are not to be had on every machine."""

    def __init__(self, folder: Path, body: str) -> None:
        self.path = folder / "qemu"
        self.runs = folder / "runs"
        self.path.write_text(f'#!/bin/sh\necho "$*" >>{self.runs}\n{body}\n')
        self.path.chmod(0o755)

    def count(self) -> int:
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0


def test_the_boot_sector_is_one() -> None:
    assert len(BOOT_SECTOR) == 512
    assert BOOT_SECTOR.endswith(b"\x55\xaa")


@pytest.mark.usefixtures("_patient")
def test_tcg_runs_the_guest() -> None:
    assert run_trial(find_qemu(), "tcg") == ""


@pytest.mark.usefixtures("_patient")
def test_this_hosts_answer_is_what_a_trial_says() -> None:
    found = find_accelerator(find_qemu())
    assert found.name in {"kvm", "tcg"}
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        assert (found.name == "kvm") is (run_trial(find_qemu(), "kvm") == "")
    if found.name == "tcg":
        assert found.why
    assert find_accelerator(find_qemu()) == found


def test_an_accelerator_that_does_not_exist_is_not_believed_and_qemu_says_why() -> None:
    assert "QEMU ended with status 1" in run_trial(find_qemu(), "nonsense")


def test_a_guest_that_gets_nowhere_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 0.2)
    assert "got nowhere" in run_trial(str(FakeQemu(tmp_path, "exec sleep 60").path), "kvm")


def test_a_qemu_that_aborts_is_not_believed(tmp_path: Path) -> None:
    assert "status -6 (out of luck)" in run_trial(
        str(FakeQemu(tmp_path, "echo out of luck >&2; kill -6 $$").path), "kvm"
    )


@pytest.mark.parametrize("status", [0, 1, 33, 66])
def test_no_other_exit_status_counts(tmp_path: Path, status: int) -> None:
    assert run_trial(str(FakeQemu(tmp_path, f"exit {status}").path), "kvm")


def test_without_the_device_nothing_is_tried(tmp_path: Path) -> None:
    qemu = FakeQemu(tmp_path, "exit 67")
    found = find_accelerator(str(qemu.path), kvm=str(tmp_path / "absent"))
    assert (found.name, qemu.count()) == ("tcg", 0)
    assert "there is no" in found.why
    assert "modprobe" in found.remedy


def test_the_answer_is_remembered_until_the_binary_changes(tmp_path: Path, kvm: Path) -> None:
    qemu = FakeQemu(tmp_path, "exit 67")
    for _ in range(3):
        assert find_accelerator(str(qemu.path), kvm=str(kvm)) == Accelerator("kvm")
    assert qemu.count() == 1
    broken = FakeQemu(tmp_path, 'case "$*" in *tcg*) exit 67;; esac; exit 1')
    assert find_accelerator(str(broken.path), kvm=str(kvm)).name == "tcg"


def test_the_answer_is_asked_again_when_the_devices_rights_change(tmp_path: Path, kvm: Path) -> None:
    qemu = FakeQemu(tmp_path, "exit 67")
    find_accelerator(str(qemu.path), kvm=str(kvm))
    kvm.chmod(0o660)
    find_accelerator(str(qemu.path), kvm=str(kvm))
    assert qemu.count() == 2


def test_a_broken_kvm_is_remembered_with_its_reason(tmp_path: Path, kvm: Path) -> None:
    qemu = FakeQemu(tmp_path, 'case "$*" in *tcg*) exit 67;; esac; echo "qemu: failed to set MSR" >&2; exit 1')
    for _ in range(2):
        found = find_accelerator(str(qemu.path), kvm=str(kvm))
        assert found.name == "tcg"
        assert "failed to set MSR" in found.why
    assert qemu.count() == 2  # KVM, and TCG beside it, once


def test_a_host_too_busy_even_for_tcg_is_asked_again_next_time(tmp_path: Path, kvm: Path) -> None:
    qemu = FakeQemu(tmp_path, "exit 1")
    assert "could not be tried" in find_accelerator(str(qemu.path), kvm=str(kvm)).why
    find_accelerator(str(qemu.path), kvm=str(kvm))
    assert qemu.count() == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives guests another account")
@pytest.mark.parametrize(
    ("mode", "group", "expected"),
    [
        (0o666, 0, Accelerator("kvm")),
        (0o660, 104, Accelerator("kvm", gid=104)),
    ],
)
def test_root_tries_it_as_the_guests_account(
    tmp_path: Path, kvm: Path, mode: int, group: int, expected: Accelerator
) -> None:
    os.chown(kvm, 0, group)
    kvm.chmod(mode)
    # A stand-in for setpriv that needs no folder open to others; it says how it was called.
    setpriv = tmp_path / "setpriv"
    setpriv.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/account\nexit 67\n')
    setpriv.chmod(0o755)
    assert find_accelerator("/bin/true", str(setpriv), str(kvm)) == expected
    account = (tmp_path / "account").read_text()
    assert account.startswith("--reuid 65534 --regid 65534")
    assert (f"--groups {group}" if expected.gid else "--clear-groups") in account


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives guests another account")
@pytest.mark.parametrize(("mode", "group"), [(0o600, 0), (0o660, 0), (0o640, 104)])
def test_a_device_for_root_alone_is_no_good_for_guests(tmp_path: Path, kvm: Path, mode: int, group: int) -> None:
    os.chown(kvm, 0, group)
    kvm.chmod(mode)
    found = find_accelerator("/bin/true", "/usr/bin/setpriv", str(kvm))
    assert found.name == "tcg"
    assert "chgrp kvm" in found.remedy
