"""`imgstore export`: a version, or what it changes, as an archive."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from chunkstore.errors import Usage, local_errors
from chunkstore.export import export
from chunkstore.objects.names import parse_layers
from chunkstore.storage.layers import resolve_layers
from imgstore.output import Output, counted, human
from imgstore.specs import layered_id, layered_image, layered_short
from imgstore.stores import open_store

_ENDS: Final = {
    ".tar.gz": "tar.gz",
    ".tgz": "tar.gz",
    ".tar.zst": "tar.zst",
    ".tzst": "tar.zst",
    ".tar": "tar",
}

_TOLD: Final = {
    "gnu": "which 'tar --incremental' does",
    "oci": "which whiteouts tell",
    "none": "which is told nowhere",
}


def run(options: Namespace, output: Output) -> int:
    """Write the archive, and say what it holds."""
    specs = parse_layers(options.spec)
    base_specs = parse_layers(options.base) if options.base is not None else None
    store = open_store(options, output)
    found = resolve_layers(store, specs)
    base = resolve_layers(store, base_specs) if base_specs is not None else None
    with _target(options.output) as target, output.progress("export") as progress:
        report = export(
            store,
            found,
            target,
            base=base,
            deletions=options.deletions,
            form=options.format or _form(options.output),
            level=options.level,
            progress=progress,
        )
    output.warnings(
        [
            f"a tar archive can't hold {kind}: left out {counted(count, 'time')}"
            for kind, count in sorted(report.lost.items())
        ]
    )
    text = f"{options.output}: {counted(report.members, 'member')}, {human(report.written)}"
    if base is not None:
        text += f", from {layered_short(base)} to {layered_short(found)}"
    if report.sidecar is not None:
        sidecar = _as_typed(report.sidecar, options.output)
        text += f"; {counted(report.deletions, 'path')} to delete in {sidecar}"
    elif base is not None and report.deletions:
        text += f"; {counted(report.deletions, 'path')} to delete, {_TOLD[options.deletions]}"
    document = {
        "image": layered_image(found),
        "version": layered_id(found),
        "base": None if base is None else layered_id(base),
        "file": options.output,
        "members": report.members,
        "size": report.written,
        "deletions": report.deletions,
        "sidecar": report.sidecar,
        "lost": dict(report.lost),
    }
    if options.output != "-":
        output.report(text, document)
    return 0


def _form(name: str) -> str:
    return next((form for end, form in _ENDS.items() if name.endswith(end)), "tar.gz")


def _as_typed(beside: str, name: str) -> str:
    """The path of a file beside the archive, relative if the archive was named so."""
    near = os.path.join(os.path.dirname(name), os.path.basename(beside))
    return near if os.path.realpath(near) == beside else beside


@contextmanager
def _target(name: str) -> Iterator[str | BinaryIO]:
    """Where the archive goes: a path to be replaced, or an open stream.

    A device or a pipe is written to: replacing it would leave a file in its place.
    """
    if name == "-":
        if sys.stdout.isatty():
            raise Usage("an archive would garble the terminal: name a file, or pipe it on")
        yield sys.stdout.buffer
        with local_errors("can't write the archive"):
            sys.stdout.buffer.flush()
        return
    path = os.path.realpath(name)
    if os.path.isdir(path):
        raise Usage(f"{name} is a directory: name a file in it")
    if os.path.exists(path) and not os.path.isfile(path):
        with local_errors("can't write the archive"), open(path, "wb") as stream:
            yield stream
        return
    yield path
