"""The units in `docs/systemd`: systemd understands them, and so does the command line."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from imgstore.parser import build as build_parser
from imgstore.parser import parse, verbs

PROJECT = Path(__file__).parents[2]
UNITS = PROJECT / "docs/systemd"
NAMES = sorted(unit.name for unit in UNITS.iterdir())
SERVICES = [name for name in NAMES if name.endswith(".service")]
DOCS = (PROJECT / "docs/administration.md").read_text()

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)


def settings(name: str, key: str) -> list[str]:
    return re.findall(rf"(?m)^{key}=(.*)$", (UNITS / name).read_text())


def complaints(place: Path, name: str) -> str:
    """What `systemd-analyze verify` says to a unit in `place`, in words or by its exit code."""
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", place / name],
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{place}:"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    said = [line for line in ended.stderr.decode().splitlines() if "imgstore" in line]
    return "\n".join(said) or ("" if ended.returncode == 0 else ended.stderr.decode())


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, with a program that is there, and their instances for some directories."""
    place = tmp_path / "units"
    place.mkdir()
    for name in NAMES:
        text = (UNITS / name).read_text()
        text = re.sub(r"(?m)^ExecStart=imgstore ", f"ExecStart={sys.executable} ", text)
        (place / name).write_text(text)
        for instance in ("-", "srv-node", r"srv-a\x20b"):
            if "@" in name:
                (place / name.replace("@", f"@{instance}")).write_text(text)
    return place


@analyze
@pytest.mark.parametrize("name", NAMES)
def test_systemd_understands_it(name: str, installed: Path) -> None:
    for unit in installed.glob(name.replace("@", "@*")):
        assert complaints(installed, unit.name) == ""


@analyze
def test_systemd_complains_when_there_is_reason(installed: Path) -> None:
    unit = installed / "imgstore-gc.service"
    unit.write_text(unit.read_text().replace("ProtectSystem", "ProtectSystm"))
    assert "ProtectSystm" in complaints(installed, unit.name)


@analyze
def test_no_ordering_cycles_when_all_are_enabled(installed: Path) -> None:
    for name in NAMES:
        for target in settings(name, "WantedBy"):
            wants = installed / f"{target}.wants"
            wants.mkdir(exist_ok=True)
            for unit in installed.glob(name.replace("@", "@?*")):
                (wants / unit.name).symlink_to(unit)
    assert "cycle" not in complaints(installed, "default.target")
    early = installed / "imgstore-recover@-.service"
    early.write_text(early.read_text().replace("After=local-fs", "After=basic.target local-fs"))
    default = Path("/lib/systemd/system/default.target")
    if default.exists():
        shutil.copy(default, installed / "default.target")
        assert "cycle" in complaints(installed, "default.target")


@pytest.mark.parametrize("name", SERVICES)
def test_its_command_line_is_understood(name: str) -> None:
    [command] = settings(name, "ExecStart")
    program, *arguments = shlex.split(command.replace("%f", "/srv/node"))
    assert program == "imgstore"
    options = parse(arguments)
    assert options.verb in verbs(build_parser())
    if "@" in name:
        assert options.directory == "/srv/node"


@pytest.mark.parametrize("name", NAMES)
def test_units_that_it_names_are_there(name: str) -> None:
    for named in re.findall(r"imgstore-\w+@?%?i?\.(?:service|timer)", (UNITS / name).read_text()):
        assert named.replace("%i", "") in NAMES
    if name.endswith(".timer"):
        assert name.replace(".timer", ".service") in NAMES


def test_every_unit_is_in_the_documentation() -> None:
    for name in NAMES:
        assert name.partition(".")[0] in DOCS, name
    for named in re.findall(r"imgstore-[a-z]+@?\S*?\.(?:service|timer)", DOCS):
        assert re.sub(r"@.*\.", "@.", named) in NAMES, named


def test_wheel_and_source_archive_hold_the_units(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", tmp_path],
        cwd=PROJECT,
        capture_output=True,
        check=True,
        timeout=120,
    )
    [wheel], [source] = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        members = archive.namelist()
    for name in NAMES:
        assert any(member.endswith(f".data/data/lib/systemd/system/{name}") for member in members)
    with tarfile.open(source) as archive:
        held = archive.getnames()
    for name in NAMES:
        assert any(member.endswith(f"/docs/systemd/{name}") for member in held)
