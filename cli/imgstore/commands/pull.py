"""`imgstore pull`: make a directory a version of a remote."""

from __future__ import annotations

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import NoReturn

from chunkstore.errors import TransferError, Untrusted, Usage
from chunkstore.objects.names import Spec, parse_layers, printable
from chunkstore.pull import PullOptions, PullReport, Trust, pull, remembered
from chunkstore.storage.backend import Reader
from imgstore.describe import (
    change_counts,
    change_documents,
    changes_in_order,
    layer_documents,
    layers_text,
    shortfall_documents,
    shortfall_lines,
)
from imgstore.output import Output, json_path, root_document, warn
from imgstore.peers import swarm_settings
from imgstore.readable import counted, human
from imgstore.remotes import remote_reader, without_secrets
from imgstore.worktrees import exclude_rules


def run(options: Namespace, output: Output) -> int:
    """Pull, and say what was needed, what was here, and what came over the network."""
    location, specs = _source(options)
    with closing(remote_reader(location, options)) as reader:

        def once() -> int:
            with output.progress(f"pull {options.directory}") as progress:
                swarm = swarm_settings(
                    *(options, location, output),
                    lambda peers, seed: progress.came(peers=peers, server=seed),
                )
                report = pull(
                    *(reader, specs, options.directory),
                    location=location,
                    options=pull_options(options)._replace(swarm=swarm),
                    progress=progress,
                )
            return tell(report, options, output, location)

        if options.watch:
            _watch(reader, specs, once, output)
        return once()


def _watch(
    reader: Reader, specs: Sequence[Spec], once: Callable[[], object], output: Output
) -> NoReturn:
    """Pull now, and whenever an image moves, until somebody ends it."""
    from chunkstore.watch import watch
    from imgstore.renewal import Program

    program = Program()

    def heard(error: TransferError | Untrusted | None) -> None:
        if error is None:
            output.note("the remote answers again")
        elif isinstance(error, Untrusted):
            # Nobody may miss it, and it is no reason to stop: the next ref may be good.
            output.error(f"not trusted: {error}; nothing was changed, waiting for better")
        else:
            output.note(f"{error}; waiting for it")

    def apply() -> None:
        once()
        sys.stdout.flush()
        # What was pulled may be the system this runs from.
        program.renew()

    watch(reader, [spec.image for spec in specs], apply, tell=heard)


def pull_options(options: Namespace) -> PullOptions:
    """What the command line says of how to pull."""
    return PullOptions(
        trust=_trust(options),
        clock=time.time_ns(),
        mirror=getattr(options, "mirror", False),
        dry_run=getattr(options, "dry_run", False),
        atomic=getattr(options, "atomic", False),
        strict=getattr(options, "strict", False),
        devices=not getattr(options, "no_devices", False),
        excludes=tuple(exclude_rules(options)) if hasattr(options, "excludes") else (),
        pre_apply=tuple(getattr(options, "pre_apply", ())),
        post_apply=tuple(getattr(options, "post_apply", ())),
        stamp=time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
        environment=dict(os.environ),
        listener=hook_line,
    )


def _trust(options: Namespace) -> Trust:
    first, insecure = getattr(options, "trust_first", False), getattr(options, "insecure", False)
    if first and insecure:
        raise Usage("--trust-first and --insecure contradict each other")
    return Trust.FIRST if first else Trust.UNSIGNED if insecure else Trust.PINNED


def hook_line(hook: str, line: str) -> None:
    """Show what a hook printed; stdout is for results."""
    warn(f"{hook}: {line}")


def _source(options: Namespace) -> tuple[str, Sequence[Spec]]:
    """The remote and the SPEC, as given or as remembered by the directory."""
    if options.remote is None:
        known = remembered(options.directory)
        if known is None or not known.remote:
            raise Usage(
                f"{options.directory} was not pulled before: "
                f"say what it shall be, 'imgstore pull REMOTE/SPEC {options.directory}'"
            )
        return known.remote, parse_layers(known.spec)
    location, slash, text = options.remote.rpartition("/")
    if not slash:
        # What stands before an @ was perhaps meant for a URL, and is nobody's to see.
        given = options.remote.rpartition("@")[2]
        raise Usage(
            f"{given!r} names no remote: write http://HOST:PORT/{given}, or the path of a store "
            f"and /{given}"
        )
    if "://" not in options.remote:
        # To be found again from any directory.
        location = os.path.abspath(location or "/")
    elif location.endswith(":/"):
        raise Usage(f"{options.remote!r} names no image: write {options.remote}/IMAGE")
    return location, parse_layers(text)


def tell(report: PullReport, options: Namespace, output: Output, location: str) -> int:
    """Report what became of a tree; the exit code."""
    directory = options.directory
    is_dry = getattr(options, "dry_run", False)
    if report.is_unsigned:
        # Whoever is not told every time forgets it.
        output.error(f"nobody vouches for {report.image}: its store is not signed (--insecure)")
    if report.trusted is not None:
        keys = ", ".join(key.fingerprint for key in report.trusted.roots.keys)
        will = "would trust" if is_dry else "trusts"
        output.note(f"{directory} {will} root key {keys} from now on, seen here for the first time")
    output.warnings(shortfall_lines(report.shortfalls))
    output.warnings(_remarks(report, is_dry=is_dry))
    if is_dry and not output.as_json:
        for path, letter in changes_in_order(report.changes):
            output.line(f"{letter}\t{printable(path)}")
    output.report(_text(directory, report, is_dry=is_dry), _document(options, location, report))
    if report.hook_error:
        output.error(f"{report.hook_error}; the next pull runs it again")
        return 7
    return 0


def _remarks(report: PullReport, *, is_dry: bool) -> Iterable[str]:
    for path, place in report.saved:
        shown = printable(path)
        if is_dry:
            yield f"{shown}: was changed here, and would be moved to .imgstore/saved/"
        else:
            yield f"{shown}: was changed here, kept as {printable(place)}"
    if report.shared is not None and report.shared.copied_files:
        copied = counted(report.shared.copied_files, "file")
        yield f"{copied} were copied for the new tree: this file system can't share them"
    for path in report.kept:
        yield f"{printable(path)}: was changed here, left alone (the image changes its metadata)"
    if report.is_changed:
        for path, kind in report.left_alone:
            yield f"{printable(path)}: {kind} is mounted there, left alone"


def _text(directory: str, report: PullReport, *, is_dry: bool) -> str:
    name = layers_text(report.layers)
    traffic = f"{human(report.received)} received in {counted(report.requests, 'request')}"
    if report.swarm.packs:
        found = report.swarm
        traffic = (
            f"{human(found.from_peers)} from peers, {human(found.from_seed)} from the server's "
            f"seed, {human(found.given)} given; {traffic}"
        )
    if report.is_recovered and not report.requests:
        return f"{directory} is {name}: an interrupted update was finished"
    if report.is_exchanged:
        return f"{directory} is {name}: the tree of before was put back"
    if not report.is_changed:
        return f"{directory} is {name} already; {traffic}"
    if report.is_first:
        done = f"{report.entries:,} entries"
    else:
        done = f"{report.changed:,} changed, {report.removed:,} removed"
    needed = (
        f"needed {counted(report.needed_chunks, 'chunk')} ({human(report.needed_bytes)}), "
        f"found {report.local_chunks:,} here ({human(report.local_bytes)}), "
    )
    fetched = f"{report.fetched_chunks:,} ({human(report.fetched_bytes)})"
    if is_dry:
        moving = f"would fetch {fetched}, {human(report.moving)} over the network"
        return f"{directory} would be {name}: {done}; {needed}{moving}; nothing was changed"
    return f"{directory} is {name}: {done}; {needed}fetched {fetched}; {traffic}"


def _document(options: Namespace, location: str, report: PullReport) -> dict[str, object]:
    def amount(chunks: int, size: int) -> dict[str, int]:
        return {"chunks": chunks, "bytes": size}

    document: dict[str, object] = {
        "image": report.image,
        "version": report.version.hex(),
        "layers": layer_documents(report.layers),
        "before": layer_documents(report.before),
        "remote": without_secrets(location),
        "directory": options.directory,
        "dry_run": getattr(options, "dry_run", False),
        "changed": report.is_changed,
        "first": report.is_first,
        "recovered": report.is_recovered,
        "exchanged": report.is_exchanged,
        "entries": report.entries,
        "entries_changed": report.changed,
        "entries_removed": report.removed,
        "needed": amount(report.needed_chunks, report.needed_bytes),
        "found": amount(report.local_chunks, report.local_bytes),
        "fetched": amount(report.fetched_chunks, report.fetched_bytes),
        "delta_chunks": report.delta_chunks,
        "moving_bytes": report.moving,
        "received_bytes": report.received,
        "requests": report.requests,
        "swarm": {
            "packs": report.swarm.packs,
            "from_peers": report.swarm.from_peers,
            "from_seed": report.swarm.from_seed,
            "given": report.swarm.given,
            "banned": list(report.swarm.banned),
        },
        "shortfalls": shortfall_documents(report.shortfalls),
        "saved": [
            {"path": json_path(path), "place": json_path(place)} for path, place in report.saved
        ],
        "kept": [json_path(path) for path in report.kept],
        "left_alone": [{"path": json_path(path), "kind": kind} for path, kind in report.left_alone],
        "shared": _shared(report),
        "hook_error": report.hook_error or None,
        "unsigned": report.is_unsigned,
        "trusted": None
        if report.trusted is None
        else {
            **root_document(report.trusted),
            "root_keys": [key.fingerprint for key in report.trusted.roots.keys],
        },
    }
    if getattr(options, "dry_run", False):
        changes = changes_in_order(report.changes)
        document["counts"] = change_counts(changes)
        document["changes"] = list(change_documents(changes))
    return document


def _shared(report: PullReport) -> dict[str, dict[str, int]] | None:
    """How files came into a tree that was made beside the old one."""
    found = report.shared
    if found is None:
        return None
    return {
        "reflinked": {"files": found.reflinked_files, "bytes": found.reflinked_bytes},
        "copied": {"files": found.copied_files, "bytes": found.copied_bytes},
    }
