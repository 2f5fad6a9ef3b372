"""Verification: every bit of a store, and what it means where one is wrong.

Promises: a flipped bit, a truncation, a missing file in anything a digest vouches for is found,
and named with the versions and paths it affects. Hints (`.idx`, torrents, `locate/`) are checked
too, though a wrong one costs readers only time. Nothing is changed, no lock is needed, and a commit
or `gc` beside it gives no false alarm.

Leaves to a ref's signature what nothing else in a store can vouch for: which version a tag ought
to name.
"""

from chunkstore.verify.findings import Problem, StoreReport
from chunkstore.verify.store import verify_store

__all__ = ["Problem", "StoreReport", "verify_store"]
