"""`imgstore refresh`: sign all images again."""

from __future__ import annotations

import time
from argparse import Namespace

from chunkstore.keys import refresh
from imgstore import signing
from imgstore.output import Output, root_document
from imgstore.readable import counted, local_time
from imgstore.stores import open_store

_SOON = 30 * 86400 * 10**9


def run(options: Namespace, output: Output) -> int:
    """Sign, and warn when the root document will expire and can't be renewed here."""
    store = open_store(options, output)
    now = time.time_ns()
    report = refresh(store, now=now, lifetime=signing.lifetime(options))
    life = store.settings.lifetime
    until = f"until {local_time(now + life * 10**9)}" if life else "for ever"
    output.report(
        f"signed {counted(len(report.images), 'image')} {until}"
        + (f"; root document {report.root.version} is new" if report.is_root_renewed else ""),
        {
            **root_document(report.root),
            "images": list(report.images),
            "lifetime": life or None,
            "root_renewed": report.is_root_renewed,
        },
    )
    if report.root.expires and report.root.expires - now < _SOON:
        output.error(
            f"root document {report.root.version} expires {local_time(report.root.expires)}, and "
            "with it all trust in this store: 'imgstore key rotate document --root-key FILE'"
        )
    return 0
