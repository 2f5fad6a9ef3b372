"""`imgstore diff`: which paths differ between two versions."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from chunkstore.objects import delta
from chunkstore.objects.entry import change_letter
from chunkstore.objects.names import parse_layers, printable
from chunkstore.storage.layers import Layered, resolve_layers
from imgstore.describe import LETTERS, change_counts, change_documents, changes_sorted
from imgstore.output import Output
from imgstore.readable import human, table
from imgstore.specs import layered_id, layered_short
from imgstore.stores import open_store

if TYPE_CHECKING:
    from chunkstore.objects.delta import Difference


def run(options: Namespace, output: Output) -> int:
    """Print the differences, or with `--stat` their numbers."""
    specs = parse_layers(options.old), parse_layers(options.new)
    store = open_store(options, output)
    old, new = (resolve_layers(store, layers) for layers in specs)
    with store.chunks() as chunks:
        differences = delta.diff(old.root, new.root, new.over(old.over(chunks.get)))
        if options.stat:
            found = _stat(output, old, new, differences)
        else:
            found = _list(output, old, new, differences)
    return 1 if found and options.exit_code else 0


def _list(output: Output, old: Layered, new: Layered, differences: Iterable[Difference]) -> bool:
    changes = changes_sorted(differences)
    if output.as_json:
        head = {**_names(old, new), "counts": change_counts(changes)}
        output.long_document(head, "changes", change_documents(changes))
    else:
        for path, letter in changes:
            output.line(f"{letter}\t{printable(path)}")
    return bool(changes)


def _stat(output: Output, old: Layered, new: Layered, differences: Iterable[Difference]) -> bool:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for before, after in differences:
        letter = change_letter(before, after)
        counts[letter] += 1
        some = after if after is not None else before
        if letter != "m" and some is not None:
            sizes[letter] += some.size
    if output.as_json:
        document = {
            **_names(old, new),
            "counts": {letter: counts[letter] for letter in LETTERS},
            "bytes": {letter: sizes[letter] for letter in LETTERS},
            "old_size": old.root.size,
            "new_size": new.root.size,
        }
        output.document(document)
        return bool(counts)
    rows = [
        (letter, f"{counts[letter]:,}", word, human(sizes[letter]) if letter != "m" else "")
        for letter, word in LETTERS.items()
        if counts[letter]
    ]
    for line in table(rows, right=(1, 3)):
        output.line(line)
    sizes_text = f"{human(old.root.size)} -> {human(new.root.size)}"
    names = f"{layered_short(old)} -> {layered_short(new)}"
    output.line(f"{names}: {counts.total():,} paths, {sizes_text}")
    return bool(counts)


def _names(old: Layered, new: Layered) -> dict[str, Any]:
    return {"old": layered_id(old), "new": layered_id(new)}
