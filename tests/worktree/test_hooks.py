"""Hooks, with real scripts and programs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support import stores, trees

from chunkstore.errors import HookFailed, LocalError, Untrusted
from chunkstore.worktree.hooks import POST_APPLY, PRE_APPLY, Occasion, run_hooks, write_changes

ENVIRONMENT = {"PATH": os.environ["PATH"], "COLOUR": "blue"}
DOCS = Path(__file__).parents[2] / "docs/administration.md"

Said = list[tuple[str, str]]


class Node:
    """A tree with hooks, and what they said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said: Said = []
        (root / ".imgstore/hooks/pre-apply.d").mkdir(parents=True, mode=0o755)
        (root / ".imgstore/hooks/post-apply.d").mkdir(mode=0o755)
        self.changes = root / ".imgstore/changes"
        write_changes(str(self.changes), [("M", b"etc/motd")])
        self.occasion = Occasion(PRE_APPLY, str(root), "web", "", "ab" * 32, str(self.changes))

    def hook(self, name: str, body: str, *, mode: int = 0o755, stage: str = PRE_APPLY) -> Path:
        path = self.root / f".imgstore/hooks/{stage}.d" / name
        path.write_text(body if body.startswith("#!") else f"#!/bin/sh\n{body}\n")
        path.chmod(mode)
        return path

    def run(self, *commands: str, stage: str = PRE_APPLY) -> Said:
        self.said = []
        run_hooks(
            replace(self.occasion, stage=stage),
            commands,
            environment=ENVIRONMENT,
            output=lambda name, line: self.said.append((name, line)),
        )
        return self.said

    @property
    def lines(self) -> list[str]:
        return [line for _, line in self.said]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (tmp_path / "node").mkdir()
    return Node(tmp_path / "node")


# Which, and in which order


def test_executables_come_in_the_order_of_their_names_then_commands(node: Node) -> None:
    for name in ("b", "10-x", "9", "B.sh", "_a", "a-b"):
        node.hook(name, "echo here")
    said = node.run("echo one", "echo two")
    assert [name for name, _ in said] == ["10-x", "9", "B.sh", "_a", "a-b", "b", *["pre-apply"] * 2]
    assert node.lines[-2:] == ["one", "two"]


def test_leftovers_and_what_is_not_executable_are_no_hooks(node: Node) -> None:
    for name in (
        *("a.dpkg-old", "a.dpkg-dist", "a.ucf-new", "a.rpmsave", "a.bak", "a.swp", "a~", "#a#"),
        *(".a", "a b", "a.disabled", "ä", "a\nb"),
    ):
        node.hook(name, "exit 1")
    node.hook("README", "exit 1", mode=0o644)
    node.hook("lib.sh", "exit 1", mode=0o666)
    (node.root / ".imgstore/hooks/pre-apply.d/folder").mkdir(mode=0o777)
    node.hook("50-a.dpkg-old.sh", "echo still a hook")
    assert node.run() == [("50-a.dpkg-old.sh", "still a hook")]


def test_each_stage_has_its_own(node: Node) -> None:
    node.hook("a", "echo before")
    node.hook("a", "echo after", stage=POST_APPLY)
    assert node.run() == [("a", "before")]
    assert node.run(stage=POST_APPLY) == [("a", "after")]


@pytest.mark.parametrize("missing", [".imgstore", ".imgstore/hooks", ".imgstore/hooks/pre-apply.d"])
def test_no_directory_means_no_hooks(node: Node, missing: str) -> None:
    shutil.rmtree(node.root / missing)
    assert node.run("echo command") == [("pre-apply", "command")]


# What a hook finds


def test_the_environment(node: Node) -> None:
    node.occasion = replace(node.occasion, old_version="cd" * 32)
    node.hook("a", "env")
    node.run("env")
    for name in ("a", "pre-apply"):
        found = dict(line.split("=", 1) for said, line in node.said if said == name)
        assert {key: found.get(key) for key in (*ENVIRONMENT, "HOME")} == {
            **ENVIRONMENT,
            "HOME": None,
        }
        assert {key: value for key, value in found.items() if key.startswith("IMGSTORE_")} == {
            "IMGSTORE_STAGE": "pre-apply",
            "IMGSTORE_DIR": str(node.root),
            "IMGSTORE_IMAGE": "web",
            "IMGSTORE_OLD_VERSION": "cd" * 32,
            "IMGSTORE_NEW_VERSION": "ab" * 32,
            "IMGSTORE_CHANGES": str(node.changes),
        }


def test_relative_and_linked_directories_are_told_in_full(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node.root.parent / "link").symlink_to(node.root)
    monkeypatch.chdir(node.root.parent)
    node.occasion = replace(node.occasion, directory="link", changes="link/.imgstore/changes")
    node.hook("a", 'pwd -P; echo "$IMGSTORE_DIR"; cat "$IMGSTORE_CHANGES"')
    node.run('pwd -P; echo "$IMGSTORE_DIR"')
    assert node.lines == [str(node.root)] * 2 + ["M\tetc/motd"] + [str(node.root)] * 2


def test_no_input(node: Node) -> None:
    source, sink = os.pipe()
    os.write(sink, b"ours\n")
    os.close(sink)
    before = os.dup(0)
    os.dup2(source, 0)
    try:
        node.run("cat; read line || echo no input")
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(source)
    assert node.lines == ["no input"]


def test_no_terminal_and_no_descriptors_of_ours(node: Node) -> None:
    node.hook("a", '[ "$(cut -d" " -f6 /proc/$$/stat)" = $$ ]')
    with open(os.devnull) as file:
        os.set_inheritable(file.fileno(), True)
        node.run(f"[ ! -e /proc/self/fd/{file.fileno()} ]")


def test_a_program_that_is_no_script(node: Node) -> None:
    target = node.root / ".imgstore/hooks/pre-apply.d/program"
    shutil.copy(shutil.which("env") or "", target)
    target.chmod(0o700)
    node.run()
    assert f"IMGSTORE_DIR={node.root}" in node.lines


def test_other_interpreters(node: Node) -> None:
    node.hook("a", f"#!{sys.executable}\nimport os, sys\nprint(os.getcwd(), len(sys.argv))\n")
    node.hook("b", "#!/bin/sh -e\nfalse | true\necho b\n")
    node.hook("c", "#!/usr/bin/env bash\necho ${BASH_VERSION:+bash}\n")
    node.run()
    assert node.lines == [f"{node.root} 1", "b", "bash"]


def test_a_hook_may_replace_itself(node: Node) -> None:
    path = node.root / ".imgstore/hooks/pre-apply.d/a"
    node.hook(
        "a", f"cp {path} {path}.new; echo '#!/bin/sh' > {path}; mv {path}.new {path}; echo on"
    )
    node.run()
    assert node.lines == ["on"]


def test_what_was_checked_is_what_runs(node: Node) -> None:
    second = node.hook("b", "echo checked")
    node.hook("a", f"printf '#!/bin/sh\\necho other' > {second}~; mv {second}~ {second}")
    second.with_name("b~").touch(mode=0o755)
    node.run()
    assert node.lines == ["checked"]


# What a hook says


def test_output_comes_as_lines_and_nowhere_else(
    node: Node, capfd: pytest.CaptureFixture[str]
) -> None:
    node.hook("a", r"echo out; echo err >&2; printf '10%%\r20%%\r\n\n  \nlast \376\033[1m'")
    node.run()
    assert node.lines == ["out", "err", "10%", "20%", "last \udcfe\x1b[1m"]
    assert capfd.readouterr() == ("", "")


def test_output_without_line_breaks_is_passed_on(node: Node) -> None:
    node.run("head -c 10000000 /dev/zero | tr '\\0' x")
    assert sum(map(len, node.lines)) == 10_000_000
    assert max(map(len, node.lines)) < 3_000_000


def test_what_is_left_running_is_not_waited_for(node: Node) -> None:
    node.run("sleep 1000 & echo $!; exec echo begun")
    sleeper = int(node.lines[0])
    try:
        assert node.lines[1:] == ["begun"]
        os.kill(sleeper, 0)
    finally:
        os.kill(sleeper, signal.SIGKILL)


def test_a_hook_that_closes_its_output_is_waited_for(node: Node) -> None:
    done = node.root / "done"
    node.run(f"exec > /dev/null 2>&1; sleep 0.3; touch {done}")
    assert done.exists()


# What goes wrong


def test_the_first_that_fails_is_the_last(node: Node) -> None:
    node.hook("a", "echo a")
    failing = node.hook("b", "echo wrong >&2; echo; exit 3")
    node.hook("c", "echo c")
    with pytest.raises(HookFailed) as caught:
        node.run("echo command")
    assert node.said == [("a", "a"), ("b", "wrong")]
    assert str(caught.value) == f"{failing} ended with status 3: wrong"
    assert (caught.value.hook, caught.value.status) == (str(failing), 3)
    assert caught.value.stage == PRE_APPLY


def test_a_command_that_fails(node: Node) -> None:
    with pytest.raises(HookFailed) as caught:
        node.run("true", "exit 1", "echo not reached", stage=POST_APPLY)
    assert str(caught.value) == "post-apply command 'exit 1' ended with status 1"
    assert caught.value.stage == POST_APPLY
    assert node.said == []


def test_a_hook_that_is_killed(node: Node) -> None:
    path = node.hook("a", "echo now; kill -9 $$")
    with pytest.raises(HookFailed) as caught:
        node.run("echo not reached")
    assert str(caught.value) == f"{path} was killed by SIGKILL: now"
    assert caught.value.status == -9
    path.unlink()
    with pytest.raises(HookFailed, match="was killed by signal 40$"):
        node.run("kill -40 $$")


@pytest.mark.parametrize(
    ("body", "words"),
    [("#!/no/such/shell\n", "interpreter"), ("#! nothing", "No such file"), ("", "#!/bin/sh")],
)
def test_a_hook_that_cant_be_run(node: Node, body: str, words: str) -> None:
    path = node.hook("a", "true")
    path.write_text(body or "echo without a first line\n")
    with pytest.raises(HookFailed, match=re.escape(str(path))) as caught:
        node.run("echo not reached")
    assert words in str(caught.value)
    assert caught.value.status is None
    assert node.said == []


def test_whoever_listens_may_fail(node: Node) -> None:
    def fail(_name: str, _line: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(LocalError) as caught:
        run_hooks(node.occasion, ["echo x; sleep 1000"], environment=ENVIRONMENT, output=fail)
    assert not isinstance(caught.value, HookFailed)
    assert caught.value.errno == 32


# Whom to trust


def _refused(node: Node, path: Path) -> str:
    with pytest.raises(Untrusted) as caught:
        node.run("echo command")
    assert node.said == []
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
@pytest.mark.parametrize("level", ["", "hooks", "hooks/pre-apply.d", "hooks/pre-apply.d/b"])
def test_what_others_may_write_is_not_run(node: Node, level: str, mode: int) -> None:
    node.hook("a", "echo not even the first")
    node.hook("b", "echo b")
    path = node.root / ".imgstore" / level
    path.chmod(mode)
    assert f"{mode:04o}" in _refused(node, path)
    path.chmod(0o755)
    assert node.run() == [("a", "not even the first"), ("b", "b")]


@trees.needs_root
@pytest.mark.parametrize("level", ["", "hooks", "hooks/pre-apply.d", "hooks/pre-apply.d/a"])
def test_what_others_own_is_not_run(node: Node, level: str) -> None:
    node.hook("a", "echo a")
    path = node.root / ".imgstore" / level
    os.chown(path, 1000, 0)
    assert "user 1000" in _refused(node, path)


@trees.needs("setfacl")
def test_an_access_list_counts(node: Node) -> None:
    path = node.hook("a", "echo a")
    if subprocess.run(["setfacl", "-m", "u:1:rw", path], check=False).returncode:
        pytest.skip("no access lists here")
    _refused(node, path)


@trees.needs_root
def test_what_root_owns_is_run_for_others(node: Node, place: Path) -> None:
    node = Node(place)
    node.hook("a", "id -u")
    place.chmod(0o755)
    script = (
        "import os, sys; from chunkstore.worktree.hooks import *\n"
        "os.setgid(1000); os.setuid(1000)\n"
        "occasion = Occasion('pre-apply', sys.argv[1], '', '', '', '')\n"
        "run_hooks(occasion, [], environment=os.environ, output=print)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, place],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(stores.PROJECT)},
        check=True,
    )
    assert ended.stdout == b"a 1000\n"


@pytest.mark.parametrize("level", ["hooks", "hooks/pre-apply.d", "hooks/pre-apply.d/a"])
def test_links_are_not_followed(node: Node, level: str) -> None:
    node.hook("a", "echo a")
    path = node.root / ".imgstore" / level
    path.rename(node.root / "elsewhere")
    path.symlink_to(node.root / "elsewhere")
    _refused(node, path)


def test_what_is_no_file_is_refused_without_being_opened(node: Node) -> None:
    path = node.root / ".imgstore/hooks/pre-apply.d/a"
    os.mkfifo(path, 0o755)
    _refused(node, path)


# Interruption

DRIVER = """
import os, signal, sys
from chunkstore.worktree import child
from chunkstore.worktree.hooks import Occasion, run_hooks

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, interrupt)
child._GRACE = float(sys.argv[3])
occasion = Occasion("pre-apply", sys.argv[1], "", "", "", "")
try:
    run_hooks(
        occasion, [sys.argv[2], "echo not reached"], environment=os.environ,
        output=lambda name, line: print(line, flush=True),
    )
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _interrupted(node: Node, body: str, number: signal.Signals, *, grace: float) -> list[int]:
    """Interrupt a run of `body` once it has printed two process ids, and return those."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, node.root, body, str(grace)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(stores.PROJECT)},
        text=True,
    )
    assert driver.stdout is not None
    pids = [int(driver.stdout.readline()), int(driver.stdout.readline())]
    assert all(map(_is_alive, pids))
    driver.send_signal(number)
    rest, _ = driver.communicate(timeout=60)
    assert rest == "interrupted\n"
    return pids


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("trap", ["", "trap '' TERM; ", "trap 'exit 0' TERM; "])
def test_when_we_are_interrupted_a_hook_and_its_children_end(
    node: Node, trap: str, number: signal.Signals
) -> None:
    body = f"{trap}sh -c 'echo $$; exec sleep 1000' & echo $$; sleep 1000; sleep 1000"
    pids = _interrupted(node, body, number, grace=0.3)
    deadline = time.monotonic() + 30
    # SIGKILL takes its time, and those were not our children.
    while any(map(_is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(_is_alive, pids))


TIDY = """
import os, pathlib, signal, sys, time

def tidy_up(*_):
    time.sleep(0.2)
    pathlib.Path("tidy").touch()
    sys.exit()

signal.signal(signal.SIGTERM, tidy_up)
print(os.getpid(), flush=True)
time.sleep(1000)
"""


def test_what_a_hook_started_may_clean_up(node: Node) -> None:
    # No shell's trap: dash loses a signal that comes between a fork and the exec of the child.
    (node.root / "tidy.py").write_text(TIDY)
    _interrupted(node, f"{sys.executable} tidy.py & echo $$; wait", signal.SIGTERM, grace=60)
    assert (node.root / "tidy").exists()


# The list of changes


def test_the_list_of_changes(tmp_path: Path) -> None:
    path = tmp_path / "changes"
    path.write_text("old")
    changes = [("A", b"boot/vmlinuz-6.1"), ("D", b"a\nb\tc\\"), ("m", b""), ("T", b"\xff\xc3\xa4")]
    write_changes(str(path), iter(changes))
    assert path.read_bytes() == b"A\tboot/vmlinuz-6.1\nD\ta\\nb\\tc\\\\\nm\t.\nT\t\\xff\xc3\xa4\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["changes"]


def test_a_list_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "changes"
    path.write_text("old")

    def changes() -> object:
        yield "A", b"x"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_changes(str(path), changes())  # type: ignore[arg-type]
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["changes"])
    with pytest.raises(LocalError, match="no/such"):
        write_changes(str(tmp_path / "no/such/changes"), [])


@trees.needs("strace")
def test_the_list_is_durable(tmp_path: Path) -> None:
    script = "import sys; from chunkstore.worktree.hooks import *; write_changes(sys.argv[1], [])"
    command = ["strace", "-f", "-e", "trace=fsync,rename", sys.executable, "-c", script]
    ended = subprocess.run(
        [*command, tmp_path / "changes"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(stores.PROJECT)},
        check=True,
    )
    calls = re.findall(rb"(fsync|rename)\(", ended.stderr)
    assert calls == [b"fsync", b"rename", b"fsync"]


# The examples in the documentation


@pytest.fixture
def example(node: Node, tmp_path: Path) -> Callable[..., list[str]]:
    """Run an example of the docs after changes, with stand-ins that say how they were called."""
    text = DOCS.read_text()
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("grub-install", "update-grub", "systemctl"):
        (tools / tool).write_text(f'#!/bin/sh\necho {tool} "$@"\n')
        (tools / tool).chmod(0o755)

    def call(name: str, *changes: str) -> list[str]:
        [script] = re.findall(rf"(?m)^    #!/bin/sh\n    # \S*/{name}\n(?:(?:    .*)?\n)+", text)
        body = "".join(line[4:] + "\n" for line in script.splitlines())
        node.hook(name, body.replace('"$IMGSTORE_DIR" = /', "1 = 1"), stage=POST_APPLY)
        write_changes(str(node.changes), [("M", os.fsencode(path)) for path in changes])
        path = f"{tools}:{ENVIRONMENT['PATH']}"
        said: list[str] = []
        run_hooks(
            replace(node.occasion, stage=POST_APPLY),
            [],
            environment={**ENVIRONMENT, "PATH": path},
            output=lambda _, line: said.append(line),
        )
        (node.root / ".imgstore/hooks/post-apply.d" / name).unlink()
        return said

    return call


def test_the_example_for_a_kernel(example: Callable[..., list[str]]) -> None:
    assert example("50-boot", "boot/vmlinuz-6.1.0-9-amd64") == ["update-grub"]
    assert example("50-boot", "usr/lib/grub/i386-pc/boot.img") == [
        "grub-install /dev/sda",
        "update-grub",
    ]
    assert example("50-boot", "etc/motd", "srv/boot/vmlinuz") == []


def test_the_example_for_services(example: Callable[..., list[str]]) -> None:
    assert example("60-services", "etc/nginx/nginx.conf") == ["systemctl try-restart nginx"]
    assert example("60-services", "usr/lib/systemd/system/x.service", "usr/sbin/sshd") == [
        "systemctl daemon-reload",
        "systemctl try-restart ssh",
    ]
    assert example("60-services", "etc/motd") == []
