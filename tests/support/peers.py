"""A BitTorrent peer of our own that seeds a pack as badly as a test wants: the protocol by hand."""

from __future__ import annotations

import socket
import struct
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress

from chunkstore.objects.torrent import Torrent
from chunkstore.swarm.announce import Announce

HANDSHAKE = b"\x13BitTorrent protocol"
CHOKE, UNCHOKE, INTERESTED, BITFIELD, REQUEST, PIECE = 0, 1, 2, 5, 6, 7

Answer = Callable[[int, bytes], bytes | None]
"""The piece a block is of, and its right bytes; what is sent instead, None for nothing ever."""


def honest(_piece: int, data: bytes) -> bytes:
    return data


def corrupt(_piece: int, data: bytes) -> bytes:
    return bytes(len(data))


class Peer:
    """Seeds `data` at `host`, answering as `answer` says; a context manager."""

    def __init__(
        self, torrent: Torrent, data: bytes, answer: Answer = honest, host: str = "127.0.0.1"
    ) -> None:
        self._torrent = torrent
        self._data = data
        self._answer = answer
        self.sent = 0
        self._over = threading.Event()
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Peer:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def announce(self, url: str) -> None:
        """Tell a tracker that all of it can be had here."""
        said = Announce(self._torrent.info_hash, b"-BAD000-%012d" % self.port, self.port, 0)
        with urllib.request.urlopen(f"{url}?{said.query}", timeout=10) as reply:
            assert b"failure" not in reply.read()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError, struct.error), sock.makefile("rb") as stream:
            stream.read(68)
            greeting = HANDSHAKE + bytes(8) + self._torrent.info_hash
            sock.sendall(greeting + b"-BAD000-%012d" % self.port)
            count = self._torrent.pieces
            bits = bytearray(b"\xff" * (count // 8))
            if count % 8:
                bits.append(0xFF << (8 - count % 8) & 0xFF)
            self._send(sock, BITFIELD, bytes(bits))
            self._send(sock, UNCHOKE)
            while not self._over.is_set():
                (length,) = struct.unpack(">I", stream.read(4))
                message = stream.read(length)
                if message and message[0] == REQUEST:
                    self._reply(sock, *struct.unpack(">III", message[1:]))

    def _reply(self, sock: socket.socket, piece: int, begin: int, length: int) -> None:
        start = piece * self._torrent.piece + begin
        block = self._answer(piece, self._data[start : start + length])
        if block is not None:
            self.sent += len(block)
            self._send(sock, PIECE, struct.pack(">II", piece, begin) + block)

    def _send(self, sock: socket.socket, kind: int, body: bytes = b"") -> None:
        sock.sendall(struct.pack(">IB", 1 + len(body), kind) + body)
