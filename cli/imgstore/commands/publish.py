"""`imgstore publish`: the archives of an image in a directory, kept up to date."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from chunkstore.publish import PublishReport, publish
from chunkstore.publish.folder import DIFF, IMAGE
from imgstore.output import Output
from imgstore.readable import counted, human, short
from imgstore.specs import one_image
from imgstore.stores import open_store

_LARGE: Final = 50
"""Percent of the image from which on a diff is worth a remark."""


def run(options: Namespace, output: Output) -> int:
    """Publish, and say what was written."""
    image = one_image(options.image)
    store = open_store(options, output)
    with output.progress(f"publish {image}") as progress:
        report = publish(store, image, options.directory, level=options.level, progress=progress)
    output.warnings(
        [
            f"a tar archive can't hold {kind}: left out {counted(count, 'time')}"
            for kind, count in sorted(report.lost.items())
        ]
    )
    output.report(_text(image, options.directory, report), _document(image, options, report))
    if report.percent > _LARGE:
        output.note(
            f"the diff is {report.percent:.0f}% of the image: 'imgstore rebase {image}' "
            "makes this version the base, and the diff empty"
        )
    return 0


def _text(image: str, directory: str, report: PublishReport) -> str:
    base, version = short(report.base.id), short(report.version.id)
    text = f"{directory}: {image} {version} over {base}; "
    if not report.written:
        return f"{text}nothing changed"
    shown = [
        f"{name} {human(report.files[name].size)}"
        + ("" if name in report.written else " as it was")
        for name in (IMAGE, DIFF)
    ]
    return text + ", ".join(shown)


def _document(image: str, options: Namespace, report: PublishReport) -> dict[str, object]:
    return {
        "image": image,
        "version": report.version.id.hex(),
        "base": report.base.id.hex(),
        "directory": options.directory,
        "written": report.written,
        "files": {name: file._asdict() for name, file in sorted(report.files.items())},
        "diff_percent": round(report.percent, 2),
        "lost": dict(report.lost),
    }
