"""`imgstore verify`: check a store to the last bit, or a pulled directory against its version."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from chunkstore.errors import Usage
from chunkstore.objects.names import printable
from chunkstore.verify import Problem, verify_store
from chunkstore.verify.installed import verify_tree
from imgstore.describe import change_counts, change_documents, layers_text
from imgstore.output import Output, json_path, one_line
from imgstore.readable import counted, human
from imgstore.stores import open_store
from imgstore.worktrees import exclude_rules

_SHOWN_PATHS: Final = 10


def run(options: Namespace, output: Output) -> int:
    """Name all that is wrong; exit code 1 if anything is."""
    if options.directory is None:
        if options.repair:
            raise Usage("--repair mends a pulled directory: name it")
        return _verify_store(options, output)
    if options.repair:
        return _repair_tree(options, output)
    return _verify_tree(options, output)


def _repair_tree(options: Namespace, output: Output) -> int:
    from contextlib import ExitStack, closing

    from chunkstore.pull import mend, remembered
    from chunkstore.storage.backends.late import LateReader
    from imgstore.commands.pull import pull_options, tell
    from imgstore.remotes import remote_reader

    source = remembered(options.directory)
    location = source.remote if source is not None else ""
    with ExitStack() as stack:
        # What is needed may be on the node: then it does not matter if the remote is not there.
        late = LateReader(lambda: remote_reader(location, options))
        reader = stack.enter_context(closing(late)) if location else None
        progress = stack.enter_context(output.progress(f"repair {options.directory}"))
        report = mend(reader, options.directory, options=pull_options(options), progress=progress)
    return tell(report, options, output, location)


def _verify_store(options: Namespace, output: Output) -> int:
    store = open_store(options, output)
    with output.progress("verify") as progress:
        report = verify_store(store, progress=progress)
    output.warnings([f"{name}: does not belong in a store; harmless" for name in report.notes])
    size = human(report.size)
    looked_at = (
        f"{counted(report.packs, 'pack')} with {counted(report.chunks, 'chunk')} ({size}), "
        f"{counted(report.versions, 'version')}"
    )
    if output.as_json:
        output.document(
            {
                "store": store.root,
                "sound": not report.problems,
                "packs": report.packs,
                "chunks": report.chunks,
                "size": report.size,
                "versions": report.versions,
                "problems": [
                    {
                        "name": problem.name,
                        "what": problem.what,
                        "affected": list(problem.affected),
                        "affected_count": problem.count,
                    }
                    for problem in report.problems
                ],
                "notes": list(report.notes),
            }
        )
    elif report.problems:
        for problem in report.problems:
            _show(problem, output)
        output.line(f"{counted(len(report.problems), 'problem')} in {looked_at}")
    elif not output.quiet:
        output.line(f"{store.root} is sound: {looked_at}")
    return 1 if report.problems else 0


def _verify_tree(options: Namespace, output: Output) -> int:
    directory = options.directory
    excludes = exclude_rules(options)
    with output.progress("verify") as progress:
        report = verify_tree(directory, excludes=excludes, progress=progress)
    if report.is_pending:
        output.warnings([f"a pull was interrupted: 'imgstore pull {directory}' finishes it"])
    installed = report.installed
    entries = installed.root.entries
    changes = sorted((path, letter) for letter, path in report.drifted)
    is_sound = not changes and not report.is_pending
    if output.as_json:
        head = {
            "directory": directory,
            "image": installed.image,
            "version": installed.version.hex(),
            "sound": is_sound,
            "pending": report.is_pending,
            "entries": entries,
            "counts": change_counts(changes),
            "unknown": [json_path(path) for path in report.unknown],
        }
        output.long_document(head, "changes", change_documents(changes))
        return 0 if is_sound else 1
    for path, letter in sorted(changes + [(path, "?") for path in report.unknown]):
        output.line(f"{letter}\t{printable(path)}")
    name = layers_text(installed.layers)
    if changes:
        output.line(f"{directory} is not {name}: {len(changes):,} of {entries:,} paths differ")
    elif is_sound and not output.quiet:
        output.line(f"{directory} is {name}: all {entries:,} entries are as they should be")
    return 0 if is_sound else 1


def _show(problem: Problem, output: Output) -> None:
    output.line(one_line(f"{problem.name}: {problem.what}"))
    shown = problem.affected if output.verbose else problem.affected[:_SHOWN_PATHS]
    for affected in shown:
        output.line(one_line(f"    affects {affected}"))
    more = problem.count - len(shown)
    if more > 0:
        hint = "" if output.verbose else " (-v shows up to 1,000)"
        output.line(f"    and {more:,} more{hint}")
