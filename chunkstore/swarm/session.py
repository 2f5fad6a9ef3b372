"""BitTorrent, by libtorrent: the one module that knows it.

Promises: peers come from whoever calls `connect`, and by themselves from nowhere: no DHT, no
exchange of peers, no local discovery, no port mapping, and torrents are private as well. A piece is
told of as finished only when its bytes can be read from the file. What is not libtorrent's, such as
trackers and giving up, is left to others.
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import islice
from types import ModuleType
from typing import Any, Final

from chunkstore.errors import LocalError
from chunkstore.objects.torrent import Torrent
from chunkstore.swarm.announce import Peer
from chunkstore.swarm.events import Banned, Broken, Came, Event, Finished, Status
from chunkstore.swarm.ports import free_ports, none_free
from chunkstore.swarm.settings import SessionSettings
from chunkstore.swarm.tuning import TUNING

_ALL: Final = (
    ("0.0.0.0", "255.255.255.255"),
    ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
)
_BLOCKED: Final = 1
_BLOCK: Final = 16 * 1024
_TRIES: Final = 8
_LISTEN_SECONDS: Final = 5.0


_MISSING: Final = "swarms need the Python package libtorrent: pip install 'imgstore[swarm]'"


def require_library() -> None:
    """Raise `LocalError` where libtorrent is not installed, without loading it."""
    if find_spec("libtorrent") is None:
        raise LocalError(_MISSING)


def library() -> ModuleType:
    """libtorrent. Raises `LocalError` where it can't be loaded."""
    try:
        import libtorrent
    except ImportError as error:
        raise LocalError(_MISSING) from error
    module: ModuleType = libtorrent
    return module


class Session:
    """One node in any number of swarms. Calls are safe from any thread; events go to one."""

    def __init__(self, settings: SessionSettings) -> None:
        self._lt = library()
        self._settings = settings
        self._handles: dict[bytes, Any] = {}
        self._packs: dict[str, bytes] = {}
        self._sizes: dict[bytes, tuple[int, int]] = {}
        self._unflushed: dict[bytes, set[int]] = {}
        self._flushing: dict[bytes, set[int]] = {}
        self.port = 0
        """Where it listens, on all its addresses."""
        self._session = self._open()

    def _open(self) -> Any:
        lt = self._lt
        category = lt.alert.category_t
        mask = (
            category.error_notification
            | category.status_notification
            | category.storage_notification
            | category.peer_notification
            | category.piece_progress_notification
            | category.block_progress_notification
        )
        free = free_ports(self._settings.addresses, self._settings.ports)
        # If it does not come to listen, somebody took the port since our look.
        for port in islice(free, _TRIES):
            values = TUNING | {
                "alert_mask": int(mask),
                "listen_interfaces": ",".join(
                    f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
                    for address in self._settings.addresses
                ),
                "max_retry_port_bind": 0,
                "upload_rate_limit": self._settings.limit_upload,
                "download_rate_limit": self._settings.limit_download,
            }
            known = lt.default_settings()  # releases differ in a few names
            session = lt.session({name: value for name, value in values.items() if name in known})
            session.set_peer_class_filter(self._classes())
            session.set_ip_filter(self._filter())
            if self._is_listening(session):
                self.port = port
                return session
        raise none_free(self._settings.ports)

    def _is_listening(self, session: Any) -> bool:
        deadline = time.monotonic() + _LISTEN_SECONDS
        failed = 0
        while time.monotonic() < deadline:
            session.wait_for_alert(100)
            for alert in session.pop_alerts():
                if isinstance(alert, self._lt.listen_succeeded_alert):
                    return True
                failed += isinstance(alert, self._lt.listen_failed_alert)
            if failed >= len(self._settings.addresses):
                return False
        return False

    def _classes(self) -> Any:
        """Every peer counts for the limits; by itself libtorrent leaves out private networks."""
        rules = self._lt.ip_filter()
        for first, last in _ALL:
            rules.add_rule(first, last, 1 << int(self._lt.session.global_peer_class_id))
        return rules

    def _filter(self) -> Any:
        rules = self._lt.ip_filter()
        if self._settings.networks:
            for first, last in _ALL:
                rules.add_rule(first, last, _BLOCKED)
            for network in self._settings.networks:
                rules.add_rule(str(network[0]), str(network[-1]), 0)
        return rules

    # Torrents

    def seed(self, torrent: Torrent, directory: str) -> None:
        """Offer a whole pack that lies in `directory`; each piece is checked when first sent."""
        self._add(torrent, directory, flags=self._lt.torrent_flags.seed_mode)

    def fetch(self, torrent: Torrent, directory: str, priorities: Sequence[int]) -> None:
        """Take pieces of a pack into its file in `directory`: 0 for never, 7 for first.

        What a file there holds already is found by its hashes, and is reported as finished.
        """
        self._add(torrent, directory, priorities=priorities)

    def _add(
        self, torrent: Torrent, directory: str, *, flags: Any = 0, priorities: Sequence[int] = ()
    ) -> None:
        lt = self._lt
        wanted = lt.load_torrent_buffer(torrent.encode())
        wanted.save_path = os.path.abspath(directory)
        wanted.trackers = []
        wanted.url_seeds = []
        if priorities:
            wanted.piece_priorities = list(priorities)
        unwanted = lt.torrent_flags.auto_managed | lt.torrent_flags.paused
        wanted.flags = (wanted.flags & ~unwanted) | flags
        self._packs[torrent.info_hash.hex()] = torrent.pack
        self._sizes[torrent.pack] = (torrent.piece, torrent.size)
        self._unflushed.setdefault(torrent.pack, set())
        with _errors("can't join a swarm"):
            self._handles[torrent.pack] = self._session.add_torrent(wanted)

    def remove(self, pack: bytes) -> None:
        """Leave the swarm of a pack; its file stays."""
        handle = self._handles.pop(pack, None)
        if handle is not None:
            with suppress(RuntimeError):
                self._session.remove_torrent(handle)

    def prioritise(self, pack: bytes, priorities: Sequence[int]) -> None:
        """Change what is wanted, and what first."""
        with suppress(KeyError, RuntimeError):
            self._handles[pack].prioritize_pieces(list(priorities))

    def connect(self, pack: bytes, peers: Iterable[Peer]) -> int:
        """Get to know peers; returns how many of them may be talked to."""
        count = 0
        for peer in peers:
            if self._settings.allows(peer.address):
                host = str(ipaddress.ip_address(peer.address))
                with suppress(KeyError, RuntimeError):
                    self._handles[pack].connect_peer((host, peer.port))
                    count += 1
        return count

    def give(self, pack: bytes, piece: int, data: bytes) -> None:
        """A piece that came another way; it is checked, and others can have it from here."""
        with suppress(KeyError, RuntimeError):
            self._handles[pack].add_piece(piece, data, 0)

    def status(self, pack: bytes) -> Status | None:
        """How a pack is doing; None when it is in no swarm here."""
        try:
            found = self._handles[pack].status()
        except (KeyError, RuntimeError):
            return None  # it leaves just now: another thread has said so
        states = self._lt.torrent_status
        return Status(
            left=found.total_wanted - found.total_wanted_done,
            downloaded=found.total_payload_download,
            uploaded=found.total_payload_upload,
            upload_rate=found.upload_payload_rate,
            download_rate=found.download_payload_rate,
            peers=found.num_peers,
            is_checked=found.state
            not in (states.checking_files, states.checking_resume_data, states.allocating),
        )

    def is_missed(self, pack: bytes) -> bool:
        """Whether anybody connected here lacks something of a pack that is here."""
        interested = self._lt.peer_info.remote_interested
        with suppress(KeyError, RuntimeError):
            return any(peer.flags & interested for peer in self._handles[pack].get_peer_info())
        return False

    # Events

    def events(self, seconds: float) -> list[Event]:
        """What has happened; waits up to `seconds` for something to. For one thread."""
        self._session.wait_for_alert(int(seconds * 1000))
        found: list[Event] = []
        for alert in self._session.pop_alerts():
            found += self._understood(alert)
        for pack, pieces in self._unflushed.items():
            if pieces and pack not in self._flushing and pack in self._handles:
                # Finished means checked, not written.
                self._flushing[pack] = set(pieces)
                pieces.clear()
                self._handles[pack].flush_cache()
        return found

    def _understood(self, alert: Any) -> Iterable[Event]:
        lt = self._lt
        if isinstance(alert, lt.alerts_dropped_alert):
            # Told too much at once. What is there has to be looked up.
            for known in list(self._handles):
                self._unflushed[known] |= self._present(known)
            return
        pack = self._pack_of(alert)
        if pack is None:
            return
        match alert:
            # What `give` brought comes from nobody.
            case lt.block_finished_alert() if alert.endpoint[1]:
                yield Came(pack, self._block(pack, alert), alert.endpoint)
            case lt.piece_finished_alert():
                self._unflushed[pack].add(int(alert.piece_index))
            case lt.torrent_checked_alert():
                self._unflushed[pack] |= self._present(pack)
            case lt.cache_flushed_alert():
                for piece in sorted(self._flushing.pop(pack, ())):
                    yield Finished(pack, piece)
            case lt.peer_ban_alert():
                yield Banned(pack, _shown(alert.endpoint))
            case lt.file_error_alert() | lt.torrent_error_alert():
                yield Broken(pack, str(alert.error.message()))
            case _:
                return

    def _block(self, pack: bytes, alert: Any) -> int:
        """How long a block is: all are alike but the last of a pack."""
        piece, size = self._sizes[pack]
        start = int(alert.piece_index) * piece + int(alert.block_index) * _BLOCK
        return min(_BLOCK, size - start)

    def _present(self, pack: bytes) -> set[int]:
        handle = self._handles.get(pack)
        if handle is None:
            return set()
        pieces = handle.status(self._lt.torrent_handle.query_pieces).pieces
        return {number for number, is_there in enumerate(pieces) if is_there}

    def _pack_of(self, alert: Any) -> bytes | None:
        handle = getattr(alert, "handle", None)
        if handle is None:
            return None
        try:
            return self._packs.get(str(handle.info_hash()))
        except RuntimeError:
            return None  # it has been removed meanwhile

    def close(self) -> None:
        """Leave all swarms."""
        for pack in list(self._handles):
            self.remove(pack)
        self._session.pause()
        # Its destructor waits for disk and network threads.
        del self._session


@contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what libtorrent's own errors come as
        raise LocalError(f"{what}: {error}") from error


def _shown(endpoint: tuple[str, int]) -> str:
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
