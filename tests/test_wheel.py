"""The wheel holds what the tree holds, in one private directory, and what is installed from it runs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_every_module_and_data_file_of_the_tree_is_in_the_wheel(wheel: Path) -> None:
    expected = set()
    for top in ("app", "probes", "widgets"):
        for path in (ROOT / top).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                name = path.relative_to(ROOT).as_posix()
                expected.add("farboot/" + name.removeprefix("app/launch/"))
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
    assert held == expected


def test_the_installed_command_runs_and_finds_its_own_modules_first(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(environment)], check=True)
    python = environment / "bin" / "python"
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (next(environment.glob("lib/python*/site-packages")) / "ours.pth").write_text(ours + "\n")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    subprocess.run([str(python), *install], check=True, capture_output=True)
    stranger = tmp_path / "stranger" / "app"
    stranger.mkdir(parents=True)
    (stranger / "__init__.py").write_text("raise SystemExit('the wrong app')\n")
    for command in ([str(environment / "bin" / "farboot")], [str(python), "-m", "farboot"]):
        done = subprocess.run(
            [*command, "--version"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PYTHONPATH": str(stranger.parent), "PATH": "/usr/bin:/bin"},
            check=False,
        )
        assert done.stdout.startswith("farboot "), done.stderr
