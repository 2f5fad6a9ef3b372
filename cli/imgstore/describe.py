"""Versions and entries in words, and as members of JSON documents (see `docs/cli.md`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from chunkstore.objects import entry as kinds
from chunkstore.objects.entry import DEVICE, SYMLINK, Entry, change_letter
from chunkstore.objects.names import printable
from imgstore.output import json_path, utc
from imgstore.readable import counted, human, local_time, mode_text, short

if TYPE_CHECKING:
    from chunkstore.objects.delta import Difference
    from chunkstore.objects.documents import Ref
    from chunkstore.storage.deltas import DeltaReport
    from chunkstore.storage.repository import Resolved
    from chunkstore.worktree.installed import Layer
    from chunkstore.worktree.restore import Shortfalls

LETTERS: Final = {
    "A": "added",
    "D": "deleted",
    "M": "modified",
    "m": "metadata only",
    "T": "of another type",
}
_KIND_NAMES: Final = {
    kinds.FILE: "file",
    kinds.DIRECTORY: "directory",
    kinds.SYMLINK: "symlink",
    kinds.CHARACTER: "character device",
    kinds.BLOCK: "block device",
    kinds.FIFO: "fifo",
}
_FORMATS: Final = {kind: form for form, kind in kinds.KIND_OF_FORMAT.items()}
_DEVICES: Final = (kinds.CHARACTER, kinds.BLOCK)


def tags_of(ref: Ref, version_id: bytes) -> list[str]:
    """The tags that name a version."""
    return [tag.name for tag in ref.tags if tag.version == version_id]


def version_document(ref: Ref, found: Resolved) -> dict[str, Any]:
    """A version as `log` and `show` give it."""
    version = found.version
    return {
        "image": ref.image,
        "version": found.id.hex(),
        "parent": version.parent.hex() or None,
        "time": utc(version.time),
        "message": version.message,
        "tags": tags_of(ref, found.id),
        "root": version.root.digest.hex(),
        "entries": version.root.entries,
        "size": version.root.size,
    }


def entry_document(entry: Entry) -> dict[str, Any]:
    """An entry as `ls` gives it; members that say nothing are left out."""
    document: dict[str, Any] = {
        "path": json_path(entry.path),
        "type": _KIND_NAMES[entry.kind],
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": utc(entry.mtime),
        "size": entry.size,
    }
    if entry.kind == SYMLINK:
        document["target"] = json_path(entry.content)
    if entry.kind in _DEVICES:
        document["device"] = list(DEVICE.unpack(entry.content))
    if entry.link:
        document["link"] = json_path(entry.link)
    if entry.flags:
        document["flags"] = entry.flags
    if entry.xattrs:
        import base64

        document["xattrs"] = {
            json_path(name): base64.b64encode(value).decode() for name, value in entry.xattrs
        }
    return document


def entry_line(entry: Entry) -> str:
    """An entry as `ls -l` would show it; `+` after the mode stands for xattrs."""
    mode = mode_text(_FORMATS[entry.kind], entry.mode) + ("+" if entry.xattrs else " ")
    if entry.kind in _DEVICES:
        size = "{}, {}".format(*DEVICE.unpack(entry.content))
    else:
        size = str(entry.size)
    line = (
        f"{mode} {entry.uid:>5} {entry.gid:>5} {size:>11} {local_time(entry.mtime)} "
        f"{printable(entry.path)}"
    )
    if entry.link:
        return f"{line} link to {printable(entry.link)}"
    if entry.kind == SYMLINK:
        return f"{line} -> {printable(entry.content)}"
    return line


def kind_name(entry: Entry) -> str:
    """What an entry is, in words."""
    return _KIND_NAMES[entry.kind]


def changes_sorted(differences: Iterable[Difference]) -> list[tuple[bytes, str]]:
    """Path and letter of each difference, ordered by the bytes of the path."""
    return sorted((_path(old, new), change_letter(old, new)) for old, new in differences)


def _path(old: Entry | None, new: Entry | None) -> bytes:
    some = new if new is not None else old
    return some.path if some is not None else b""


def change_documents(changes: Iterable[tuple[bytes, str]]) -> Iterable[dict[str, str]]:
    """Members of the list of changes."""
    return ({"letter": letter, "path": json_path(path)} for path, letter in changes)


def change_counts(changes: Iterable[tuple[bytes, str]]) -> dict[str, int]:
    """How many changes there are of each letter."""
    counts = Counter(letter for _, letter in changes)
    return {letter: counts[letter] for letter in LETTERS}


def in_words(counts: Mapping[str, int]) -> str:
    """`12 added, 3 changed, 1 removed`, without what is none."""
    said = {
        "added": counts.get("A", 0),
        "changed": counts.get("M", 0) + counts.get("T", 0),
        "with new metadata": counts.get("m", 0),
        "removed": counts.get("D", 0),
    }
    return ", ".join(f"{number:,} {word}" for word, number in said.items() if number)


def written_words(chunks: int, raw: int, stored: int, packs: int) -> str:
    """`3 new chunks, 410 bytes (308 bytes stored) in 1 pack`: what recording has added."""
    place = f" in {counted(packs, 'pack')}" if packs else ""
    return f"{counted(chunks, 'new chunk')}, {human(raw)} ({human(stored)} stored){place}"


def delta_words(deltas: DeltaReport | None) -> str:
    """What nodes one version behind can have instead of plain frames, to stand behind the rest."""
    if deltas is None:
        return ""
    stored, plain = human(deltas.stored), human(deltas.plain)
    return f"; for nodes one version behind {stored} instead of {plain}"


def delta_document(deltas: DeltaReport | None) -> dict[str, int] | None:
    """The same for JSON."""
    if deltas is None:
        return None
    return {
        "chunks": deltas.chunks,
        "bytes": deltas.raw,
        "stored_bytes": deltas.stored,
        "plain_bytes": deltas.plain,
    }


def shortfall_lines(shortfalls: Shortfalls) -> list[str]:
    """One line for each kind of thing that could not be set."""
    return [
        f"{kind} could not be set on {counted(count, 'path')}, "
        f"the first being {printable(path)}: {reason}"
        for kind, (count, path, reason) in shortfalls.kinds.items()
    ]


def shortfall_documents(shortfalls: Shortfalls) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [
        {"kind": kind, "count": count, "first": json_path(path), "reason": reason}
        for kind, (count, path, reason) in shortfalls.kinds.items()
    ]


def layers_text(layers: Iterable[Layer]) -> str:
    """`web 3fa9c1d2e0ab`, and with overlays `web 3fa9c1d2e0ab + rack7 8ccdbd0c5eba`."""
    return " + ".join(f"{layer.image} {short(layer.version)}" for layer in layers)


def layer_documents(layers: Iterable[Layer]) -> list[dict[str, str]]:
    """The same for JSON."""
    return [{"image": layer.image, "version": layer.version.hex()} for layer in layers]


def changes_in_order(changes: Iterable[tuple[str, bytes]]) -> list[tuple[bytes, str]]:
    """Path and letter of each change, ordered by the bytes of the path."""
    return sorted((path, letter) for letter, path in changes)
