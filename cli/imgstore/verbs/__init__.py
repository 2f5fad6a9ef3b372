"""What each verb takes, and the words that explain it: tables, in the order of `--help`.

What a verb does is in `commands/<verb>.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstore.verbs.archives import add_archives
from imgstore.verbs.keeping import add_keeping
from imgstore.verbs.looking import add_looking
from imgstore.verbs.naming import add_naming
from imgstore.verbs.nodes import add_nodes
from imgstore.verbs.recording import add_recording
from imgstore.verbs.serving import add_serving
from imgstore.verbs.trust import add_trust

if TYPE_CHECKING:
    from imgstore.verbs.words import Maker


def add_verbs(verb: Maker) -> None:
    """Make the parsers of all verbs."""
    add_recording(verb)
    add_looking(verb)
    add_naming(verb)
    add_archives(verb)
    add_nodes(verb)
    add_serving(verb)
    add_keeping(verb)
    add_trust(verb)
