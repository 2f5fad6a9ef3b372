"""One crowd: a server, N nodes that all update at once, and what came of it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from links import Machine, Network, busy_seconds, network
from outcome import Outcome, Setting, bound
from update import IMGSTORE, PROJECT, Update

from chunkstore.objects import torrent as torrents
from chunkstore.objects.torrent import Torrent

sys.path.insert(0, str(PROJECT / "tests"))

PORT = 8730
_RSYNCD = "use chroot = no\nuid = 0\ngid = 0\n[image]\n  path = {after}\n  read only = yes\n"


class Crowd:
    """One run of one contender."""

    def __init__(self, place: Path, update: Update, contender: str, setting: Setting) -> None:
        self._place = place
        self._update = update
        self._contender = contender
        self._setting = setting
        self._net: Network
        self._server: Machine
        self._serving: subprocess.Popen[bytes]
        self._nodes: list[Machine] = []
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._due: dict[int, float] = {}
        self._done: dict[int, float] = {}
        self._begun = 0.0
        self._server_cpu = 0.0
        self._remarks: list[str] = []
        self._out: set[tuple[Path, int]] = set()

    def run(self) -> Outcome:
        """Set it up, let it go, look at the result, and take it down."""
        setting, load = self._setting, os.getloadavg()[0]
        self._place.mkdir(parents=True)
        with network() as self._net:
            self._server = self._net.machine(up=setting.server, down=setting.server)
            for number in range(setting.nodes):
                machine = self._net.machine(up=setting.up, down=setting.down)
                if setting.trouble == "loss":
                    machine.lose(0.05)
                self._nodes.append(machine)
                self._prepare(number)
            with self._served(), self._troubled():
                sent, busy = self._server.sent(), busy_seconds()
                before = _children()
                self._let_go()
                wall = time.monotonic() - self._begun
                cpu = busy_seconds() - busy
                nodes_cpu = _children() - before
                sent = self._server.sent() - sent
                self._server_cpu = self._server_cpu or _cpu_of(self._serving.pid)
        wrong = sum(self._is_wrong(number) for number in self._done)
        outcome = Outcome(
            self._contender,
            setting,
            self._update.size,
            sorted(self._done.values()),
            setting.nodes - len(self._done),
            wrong,
            sent,
            self._server_cpu,
            nodes_cpu,
            cpu,
            wall,
            self._remarks,
            load,
        )
        shutil.rmtree(self._place, ignore_errors=True)
        return outcome

    # Before

    def _tree(self, number: int) -> Path:
        return self._place / f"node{number}"

    def _prepare(self, number: int) -> None:
        """The node has the version before, by whatever it will be updated with."""
        tree = self._tree(number)
        if self._contender == "rsync":
            subprocess.run(["cp", "-a", str(self._update.before), str(tree)], check=True)
        elif number == 0:
            remote = f"{self._update.store}/web:base"
            subprocess.run(
                [*IMGSTORE, "-q", "pull", "--trust-first", remote, str(tree)], check=True
            )
        else:
            subprocess.run(["cp", "-a", str(self._tree(0)), str(tree)], check=True)

    @contextmanager
    def _served(self) -> Iterator[None]:
        if self._contender == "rsync":
            config = self._place / "rsyncd.conf"
            config.write_text(_RSYNCD.format(after=self._update.after))
            command = ["rsync", "--daemon", "--no-detach", "--port", str(PORT)]
            command += ["--config", str(config)]
        else:
            command = [*IMGSTORE, "--store", str(self._update.store), "serve"]
            command += ["--listen", f"{self._server.address}:{PORT}"]
        log = (self._place / "server.log").open("wb")
        with log:
            self._serving = self._server.start(command, stdout=log, stderr=log)
            try:
                self._wait_for_server()
                yield
            finally:
                self._serving.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    self._serving.wait(20)
                self._serving.kill()
                self._serving.wait()

    def _wait_for_server(self) -> None:
        probe = (
            "import socket,sys,time\n"
            "for _ in range(200):\n"
            "    try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close(); break\n"
            "    except OSError: time.sleep(0.05)\n"
        )
        self._server.run(sys.executable, "-c", probe, self._server.address, str(PORT))

    # The run

    def _command(self, number: int) -> list[str]:
        tree = str(self._tree(number))
        if self._contender == "rsync":
            # Compressed, as packs are.
            return ["rsync", "-aHAXz", "--delete", f"{self._url}/", tree]
        transport = "http" if self._contender == "http" else "auto"
        command = [*IMGSTORE, "-v", "--json", "pull", "--trust-first", f"{self._url}/web", tree]
        return [*command, "--transport", transport, "--peer-listen", self._nodes[number].address]

    @property
    def _url(self) -> str:
        host = self._server.address
        return (
            f"rsync://{host}:{PORT}/image"
            if self._contender == "rsync"
            else f"http://{host}:{PORT}"
        )

    def _start(self, number: int) -> None:
        with (self._place / f"node{number}.log").open("ab") as log:
            process = self._nodes[number].start(self._command(number), stdout=log, stderr=log)
        self._running[number] = process

    def _let_go(self) -> None:
        setting = self._setting
        self._begun = time.monotonic()
        late = setting.nodes // 4 if setting.trouble == "late" else 0
        for number in range(setting.nodes):
            self._due[number] = 60.0 if number < late else 0.0
        waiting = set(self._due)
        steps = self._steps()
        while len(self._done) < setting.nodes:
            now = time.monotonic() - self._begun
            if now > setting.patience:
                break
            for number in sorted(waiting):
                if self._due[number] <= now:
                    self._start(number)
                    waiting.discard(number)
            for number, process in list(self._running.items()):
                if process.poll() is not None:
                    del self._running[number]
                    if process.returncode == 0:
                        # Of a late one only its own time counts.
                        start = self._due[number] if setting.trouble == "late" else 0.0
                        self._done[number] = now - start
                    elif process.returncode > 0:
                        said = (self._place / f"node{number}.log").read_text().splitlines()
                        self._remarks.append(f"node {number} ended with {process.returncode}")
                        self._remarks += said[-5:]
                        return
            for step in steps:
                if step(now):
                    steps.remove(step)
                    break
            time.sleep(0.02)
        for process in self._running.values():
            process.kill()
            process.wait()

    # Trouble

    def _steps(self) -> list[Callable[[float], bool]]:
        """What is to happen on the way: each is asked again and again until it has."""
        match self._setting.trouble:
            case "killed":
                return [self._kill_some]
            case "server":
                return [self._kill_server]
        return []

    def _ideal(self) -> float:
        return bound(self._setting, self._update.size)

    def _kill_some(self, now: float) -> bool:
        """Kill 30 % of the nodes halfway, and start them again two seconds later."""
        if now < self._ideal() / 2:
            return False
        for number in range(0, self._setting.nodes, 3):
            process = self._running.pop(number, None)
            if process is not None:
                process.kill()
                process.wait()
                self._due[number] = now + 2
                self._remarks.append(f"node {number} killed at {now:.1f} s")
        again = [number for number, due in self._due.items() if due > now]

        def restart(later: float) -> bool:
            for number in list(again):
                if later >= self._due[number]:
                    self._start(number)
                    again.remove(number)
            return not again

        self._again = restart
        while again:
            restart(time.monotonic() - self._begun)
            time.sleep(0.02)
        return True

    def _kill_server(self, now: float) -> bool:
        """Kill the server as soon as the nodes have all of it between them."""
        if now < 1 or not self._is_out():
            return False
        self._server_cpu = _cpu_of(self._serving.pid)
        self._serving.kill()
        self._serving.wait()
        copies = self._server.sent() / self._update.size
        self._remarks.append(f"server killed at {now:.1f} s, {copies:.2f} copies sent")
        return True

    def _is_out(self) -> bool:
        """Whether each piece that a node wants is whole and right in the cache of some node.

        Up to the last piece that anybody has any of, as the files' holes tell: behind it are nodes
        of the manifest, which came before.
        """
        is_any = False
        store = self._update.store
        for pack in [*store.glob("packs/*.pack"), *store.glob("deltas/*.pack")]:
            copies = list(self._place.glob(f"node*/.imgstore/swarm/{pack.name}"))
            begun = max((stop for path in copies for _, stop in _data(path)), default=0)
            if not begun:
                continue
            known = self._torrent(pack)
            for piece in range(-(-begun // known.piece)):
                found = (_read(path, *known.span(piece)) for path in copies)
                if (pack, piece) not in self._out:
                    if not any(known.is_right(piece, data) for data in found):
                        return False
                    self._out.add((pack, piece))
            is_any = True
        return is_any

    def _torrent(self, pack: Path) -> Torrent:
        path = pack.with_suffix(".torrent")
        return torrents.parse(path.read_bytes(), bytes.fromhex(pack.stem), path.name)

    @contextmanager
    def _troubled(self) -> Iterator[None]:
        """A node of the crowd that answers everything with zeros."""
        if self._setting.trouble != "corrupt":
            yield
            return
        bad = self._net.machine(up=self._setting.up, down=self._setting.down)
        tracker = f"http://{self._server.address}:{PORT}/announce"
        script = str(Path(__file__).with_name("corrupt.py"))
        process = bad.start([sys.executable, script, str(self._update.store), bad.address, tracker])
        try:
            time.sleep(1)
            yield
        finally:
            process.kill()
            process.wait()

    # After

    def _is_wrong(self, number: int) -> bool:
        found = subprocess.run(
            [
                "rsync",
                "-aHAXnic",
                "--delete",
                "--exclude=/.imgstore",
                f"{self._update.after}/",
                str(self._tree(number)),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return bool([line for line in found.stdout.splitlines() if not line.startswith(".d")])


def _read(path: Path, start: int, stop: int) -> bytes:
    with suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)
    return b""


def _data(path: Path) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        stop = 0
        while True:
            try:
                start = os.lseek(descriptor, stop, os.SEEK_DATA)
            except OSError:
                return
            stop = os.lseek(descriptor, start, os.SEEK_HOLE)
            yield start, stop
    finally:
        os.close(descriptor)


def _children() -> float:
    """Processor seconds of all children that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu_of(pid: int) -> float:
    """Processor seconds of a process, which `ip netns exec` has become."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0
