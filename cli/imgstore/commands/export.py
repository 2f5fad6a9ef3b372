"""`imgstore export`: a version, or what it changes, as an archive."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final

from chunkstore.errors import Usage, local_errors
from chunkstore.export import SIDECAR, ExportReport, export
from chunkstore.objects.names import parse_layers
from chunkstore.storage.layers import Layered, resolve_layers
from imgstore.output import Output
from imgstore.readable import counted, human, short
from imgstore.specs import layered_id, layered_image, layered_short
from imgstore.stores import open_store

if TYPE_CHECKING:
    from chunkstore.export.stream import Base
    from chunkstore.storage.store import Store

_ENDS: Final = {
    ".tar.gz": "tar.gz",
    ".tgz": "tar.gz",
    ".tar.zst": "tar.zst",
    ".tzst": "tar.zst",
    ".tar": "tar",
}

_ARCHIVES: Final = (*_ENDS, ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
_IMAGE: Final = "oci"
_TOLD: Final = {
    "gnu": "which 'tar --incremental' does",
    "oci": "which whiteouts tell",
    "none": "which is told nowhere",
}


def run(options: Namespace, output: Output) -> int:
    """Write the archive, and say what it holds."""
    specs = parse_layers(options.spec)
    base_specs = None
    if options.base is not None and not _is_archive(options.base):
        base_specs = parse_layers(options.base)
    _check(options)
    store = open_store(options, output)
    found = resolve_layers(store, specs)
    with ExitStack() as stack:
        base: Base | None = None
        if base_specs is not None:
            base = resolve_layers(store, base_specs)
        elif options.base is not None:
            from chunkstore.export.tarball import open_tarball

            with output.progress("read the base") as progress:
                base = stack.enter_context(open_tarball(store, options.base, progress=progress))
        report = _export(options, output, store, found, base)
    output.warnings(
        [
            f"a tar archive can't hold {kind}: left out {counted(count, 'time')}"
            for kind, count in sorted(report.lost.items())
        ]
    )
    if options.output != "-":
        text, document = (
            _text(options, found, base, report),
            _document(options, found, base, report),
        )
        output.report(text, document)
    return 0


def _is_archive(text: str) -> bool:
    """Whether a base is a file, and no SPEC."""
    return "/" in text or text.endswith(_ARCHIVES)


def _export(
    options: Namespace, output: Output, store: Store, found: Layered, base: Base | None
) -> ExportReport:
    with output.progress("export") as progress:
        if options.format == _IMAGE:
            from chunkstore.export.oci import export_image

            if base is not None and not isinstance(base, Layered):
                raise Usage(
                    f"{options.base} is no layer that could be taken over: import it as an image, "
                    "and name that as the base"
                )
            return export_image(
                store,
                found,
                os.path.realpath(options.output),
                base=base,
                name=_reference(found),
                level=options.level,
                progress=progress,
            )
        with _target(options.output) as target:
            return export(
                store,
                found,
                target,
                base=base,
                deletions=options.deletions or SIDECAR,
                form=options.format or _form(options.output),
                level=options.level,
                progress=progress,
            )


def _check(options: Namespace) -> None:
    if options.format != _IMAGE:
        return
    if options.deletions not in (None, "oci"):
        raise Usage("layers of an image tell deletions by whiteouts: leave --deletions away")
    is_special = os.path.exists(options.output) and not (
        os.path.isfile(options.output) or os.path.isdir(options.output)
    )
    if options.output == "-" or is_special:
        raise Usage("an image layout is a directory or a .tar file, and no stream: name one")


def _reference(found: Layered) -> str:
    """What tools are to call the image: its tag, or else the beginning of its id."""
    spec, version = found.specs[-1], found.versions[-1]
    return short(version.id) if spec.back else spec.tag


def _text(options: Namespace, found: Layered, base: Base | None, report: ExportReport) -> str:
    text = f"{options.output}: {counted(report.members, 'member')}, {human(report.written)}"
    if base is not None:
        old = layered_short(base) if isinstance(base, Layered) else options.base
        text += f", from {old} to {layered_short(found)}"
    if report.digest is not None:
        return f"{text}; {report.digest}"
    if report.sidecar is not None:
        sidecar = _as_typed(report.sidecar, options.output)
        text += f"; {counted(report.deletions, 'path')} to delete in {sidecar}"
    elif base is not None and report.deletions:
        text += f"; {counted(report.deletions, 'path')} to delete, {_TOLD[options.deletions]}"
    return text


def _document(
    options: Namespace, found: Layered, base: Base | None, report: ExportReport
) -> dict[str, object]:
    return {
        "image": layered_image(found),
        "version": layered_id(found),
        "base": layered_id(base) if isinstance(base, Layered) else options.base,
        "file": options.output,
        "members": report.members,
        "size": report.written,
        "deletions": report.deletions,
        "sidecar": report.sidecar,
        "digest": report.digest,
        "lost": dict(report.lost),
    }


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
