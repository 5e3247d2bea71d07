"""The command line: what scripts and people get from it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.demo.guest import GuestImages
from probes.registry import SYSTEMS
from tests.conftest import ROOT, Farboot
from tests.servers.faults import BlackHole
from tests.servers.nginx import Nginx, start_nginx

ODD_NAMES = [
    "with space.img", "50%.img", "a,b=c.img", "#what?.img", "'quoted\".img", "back\\slash.img", "ünï.img",
    "[bold]x.img", "\x1b[31mred.img", "-n.img", "new\nline.img", "$(id);&.img", "\udcff.img",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, tiny_guest: GuestImages) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "guest.img").symlink_to(tiny_guest.raw)
    (folder / "guest.qcow2").symlink_to(tiny_guest.qcow2)
    (folder / "notes.txt").write_text("nothing to boot")
    (folder / "deeper").mkdir()
    return folder


def test_a_listing_is_objects_with_name_location_kind_size_and_time(farboot: Farboot, folder: Path) -> None:
    listed = json.loads(farboot("ls", str(folder), "--json").stdout)
    by_name = {entry["name"]: entry for entry in listed}
    assert {name: entry["kind"] for name, entry in by_name.items()} == {
        "guest.img": "image",
        "guest.qcow2": "image",
        "notes.txt": "other",
        "deeper": "container",
    }
    assert by_name["guest.img"]["size"] == (folder / "guest.img").stat().st_size
    assert by_name["guest.img"]["location"] == str(folder / "guest.img")
    assert all("modified" in entry for entry in listed)


def test_an_image_lists_as_itself(farboot: Farboot, folder: Path) -> None:
    listed = json.loads(farboot("ls", str(folder / "guest.img"), "--json").stdout)
    assert [entry["name"] for entry in listed] == ["guest.img"]


def test_an_empty_place_is_an_empty_list(farboot: Farboot, folder: Path) -> None:
    assert json.loads(farboot("ls", str(folder / "deeper"), "--json").stdout) == []
    plain = farboot("ls", str(folder / "deeper"))
    assert (plain.returncode, plain.stdout) == (0, "")


@pytest.mark.parametrize("where", ["files", "web"])
def test_every_location_printed_can_be_given_back(farboot: Farboot, tmp_path: Path, nginx: Nginx, where: str) -> None:
    folder = Path(nginx.root) / f"odd-{tmp_path.name}-{where}"
    folder.mkdir()
    names = [name for name in ODD_NAMES if where == "files" or "\n" not in name]
    for number, name in enumerate(names):
        (folder / os.fsdecode(os.fsencode(name))).write_bytes(bytes(1024 + number))
    place = str(folder) if where == "files" else f"{nginx.url}{folder.name}/"
    done = farboot("ls", place, "--json")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert sorted(entry["name"] for entry in listed) == sorted(names)
    for entry in listed:
        again = json.loads(farboot("ls", entry["location"], "--json").stdout)
        assert [(e["name"], e["location"]) for e in again] == [(entry["name"], entry["location"])]
        assert again[0]["size"] == 1024 + names.index(entry["name"])


def test_the_plain_listing_can_be_pasted_into_a_shell_and_acts_on_no_terminal(farboot: Farboot, tmp_path: Path) -> None:
    names = ["plain.img", "with space.img", "\x1b[31mred.img", "it's.img"]
    for name in names:
        (tmp_path / "odd" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "odd" / name).write_bytes(bytes(512))
    listed = farboot("ls", str(tmp_path / "odd")).stdout
    assert "\x1b" not in listed
    words = [line.split(maxsplit=5)[5] for line in listed.splitlines()[1:]]
    shown = subprocess.run(
        ["sh", "-c", "printf '%s\\0' " + " ".join(words)], capture_output=True, text=True, check=True
    ).stdout
    for location in shown.split("\0")[:-1]:
        assert json.loads(farboot("ls", location, "--json").stdout)[0]["name"] in names


def test_inspect_says_what_an_image_is(farboot: Farboot, folder: Path) -> None:
    told = json.loads(farboot("inspect", str(folder / "guest.qcow2"), "--json").stdout)
    assert set(told) >= {
        "location", "format", "virtual_size", "file_size", "backing", "chain", "media", "features", "hazards",
        "verdict", "needs_passphrase",
    }  # fmt: skip
    assert (told["format"], told["verdict"], told["backing"]) == ("qcow2", "ok", None)
    assert told["virtual_size"] == (folder / "guest.img").stat().st_size
    assert "qcow2" in farboot("inspect", str(folder / "guest.qcow2")).stdout


def test_the_command_is_shown_whole_and_as_a_short_drive(farboot: Farboot, folder: Path) -> None:
    shown = json.loads(farboot("command", str(folder / "guest.img"), "--json").stdout)
    assert set(shown) >= {"script", "argv", "drive", "route", "notes", "refusals"}
    assert shown["argv"][0].endswith("qemu-system-x86_64")
    assert "format=raw" in shown["drive"]
    assert "snapshot=on" in shown["drive"]
    assert shown["script"].startswith("#!/bin/sh")


def test_writing_takes_a_yes_and_a_refusal_for_the_moment_is_not_the_images(farboot: Farboot, folder: Path) -> None:
    image = str(folder / "guest.img")
    assert "the guest writes into the image itself" in farboot("command", image, "--write").stdout
    unasked = farboot("boot", image, "--write")
    assert unasked.returncode == 2
    assert "--yes says yes" in unasked.stderr
    with open(image, "rb"):  # somebody has it open
        used = farboot("boot", image, "--write", "--yes")
    assert used.returncode == 1
    assert "it is in use" in used.stderr


def test_an_image_that_names_a_host_file_is_refused_by_what_it_is(farboot: Farboot, folder: Path) -> None:
    image = folder / "trap.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/hostname", "-F", "raw", str(image), "1M"]
    subprocess.run(create, check=True)
    told = json.loads(farboot("inspect", str(image), "--json").stdout)
    assert (told["verdict"], told["backing"]["name"]) == ("refuse", "/etc/hostname")
    done = farboot("boot", str(image), "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"] == "refused"
    assert json.loads(farboot("ps", "--json").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["ls", "/nowhere/at/all"], 1),
        (["inspect", "/nowhere/at/all.img"], 1),
        (["boot", "/nowhere/at/all.img"], 1),
        (["ls", "gopher://host/"], 2),
        (["boot"], 2),
        (["boot", "/x", "--memory", "lots"], 2),
        (["boot", "/x", "--write", "--snapshot"], 2),
        (["frobnicate", "--what"], 2),
        (["console", "no-such-guest"], 1),
        (["stop", "no-such-guest"], 1),
        (["screen", "no-such-guest", "/dev/null"], 1),
    ],
)
def test_failures_have_their_exit_codes_and_no_traceback(farboot: Farboot, arguments: list[str], code: int) -> None:
    done = farboot(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_error_is_one_line_and_with_json_an_object(farboot: Farboot) -> None:
    done = farboot("ls", "/nowhere/at/all", "--json")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    told = json.loads(done.stdout)
    assert told["error"] == "not-found"
    assert told["on"]


def test_a_dead_server_is_told_as_one(farboot: Farboot, refused_port: int, black_hole: BlackHole) -> None:
    refused = json.loads(farboot("ls", f"http://127.0.0.1:{refused_port}/", "--json").stdout)
    assert refused["error"] == "unreachable"
    silent = json.loads(farboot("ls", f"http://{black_hole.authority}/", "--json", "--deadline", "1").stdout)
    assert silent["error"] == "timed-out"


class TestPasswords:
    """A web server that wants a password."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Iterator[str]:
        root = tmp_path / "root"
        root.mkdir()
        (root / "a.img").write_bytes(bytes(1 << 20))
        hashed = subprocess.run(
            ["openssl", "passwd", "-apr1", "s3cret word"], capture_output=True, text=True, check=True
        ).stdout.strip()
        (tmp_path / "users").write_text(f"alice:{hashed}\n")
        server = start_nginx(
            tmp_path / "nginx", root, server=f'auth_basic "here"; auth_basic_user_file {tmp_path}/users;'
        )
        yield f"127.0.0.1:{server.port}/"
        server.server.stop()

    def test_without_one_it_is_denied(self, farboot: Farboot, place: str) -> None:
        done = farboot("ls", f"http://{place}", "--json")
        assert json.loads(done.stdout)["error"] == "denied"
        assert "FARBOOT_USERNAME and FARBOOT_PASSWORD" in done.stderr

    def test_a_file_the_environment_and_the_location_may_hold_it(
        self, farboot: Farboot, place: str, tmp_path: Path
    ) -> None:
        (tmp_path / "password").write_text("s3cret word\n")
        by_file = farboot("ls", f"http://{place}", "--user", "alice", "--password-file", str(tmp_path / "password"))
        typed = farboot("ls", f"http://alice:s3cret%20word@{place}")
        by_stdin = farboot("ls", f"http://{place}", "--user", "alice", "--password-file", "-", stdin="s3cret word\n")
        farboot.environment |= {"FARBOOT_USERNAME": "alice", "FARBOOT_PASSWORD": "s3cret word"}
        by_environment = farboot("ls", f"http://{place}")
        for done in (by_file, typed, by_stdin, by_environment):
            assert done.returncode == 0, done.stderr
            assert "a.img" in done.stdout
            assert "s3cret" not in done.stdout + done.stderr
        assert "process list" in typed.stderr
        assert by_file.stderr == ""

    def test_no_secret_is_in_the_command_and_it_asks_for_it(self, farboot: Farboot, place: str) -> None:
        farboot.environment |= {"FARBOOT_USERNAME": "alice", "FARBOOT_PASSWORD": "s3cret word"}
        for route in ("direct", "bridge"):
            done = farboot("command", f"http://{place}a.img", "--json", "--route", route)
            assert done.returncode == 0, done.stderr
            assert "s3cret" not in done.stdout + done.stderr
            assert json.loads(done.stdout)["drive"] is None


def test_help_shows_how_each_storage_system_is_typed(farboot: Farboot) -> None:
    shown = farboot("--help").stdout
    for system in SYSTEMS:
        assert system.schemes[0] == "file" or f" {system.schemes[0]}:" in shown, system.title


def test_starting_imports_no_client_and_no_screen() -> None:
    code = (
        "import sys; import app.main; app.main.main(['ls', '/var/empty-or-not'])\n"
        "print(sorted({'textual', 'rich', 'requests', 'paramiko', 'rados'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert done[-1] == "[]"


def test_doctor_tells_what_is_there_and_what_brings_the_rest(farboot: Farboot) -> None:
    done = farboot("doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["qemu"]
    assert "QEMU" in farboot("doctor").stdout
