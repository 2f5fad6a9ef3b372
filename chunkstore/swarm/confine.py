"""Giving up what a process that only gives has no need of: root's powers, and all other files.

It speaks with strangers by a large library, often as root. Promises: from then on the calling
thread, and every one that it starts, has no capability and can't get one; of files it can only use
those in the cache, read what programs need to run and to find a host, and write nothing else. What
the kernel, or whoever confines this process already, does not allow is left as it is: that is no
reason not to give. Leaves alone what has been opened before, the network, and what the owner of a
file may do to it without opening it, such as to change its mode.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

_SET_NO_NEW_PRIVS: Final = 38
_CAPBSET_DROP: Final = 24
_CAP_AMBIENT: Final = 47
_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION: Final = 0x20080522

# The same on every architecture.
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION: Final = 1
_PATH_BENEATH: Final = 1

_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_MAKE_DEVICES: Final = 1 << 6 | 1 << 11
_TRUNCATE: Final = 1 << 14
_OF_FILES: Final = _READ_FILE | _WRITE_FILE | _TRUNCATE
_HANDLED: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights the versions of Landlock know; later ones know as many as the last."""
_SCOPES_SINCE: Final = 6
_SCOPES: Final = 1 << 0 | 1 << 1
"""Neither abstract sockets nor signals reach processes that are not confined with this one."""

_NAMES: Final = (
    *("/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"),
    *("/etc/services", "/etc/ld.so.cache", "/etc/localtime"),
    *("/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf", "/var/lib/sss/mc"),
    *("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs", "/etc/pki/ca-trust"),
    *("/etc/ca-certificates", "/etc/crypto-policies"),
)
"""What finds hosts, and certificates of those who vouch for them. Not `/etc`: keys are there."""
_PROGRAMS: Final = ("/usr", "/lib", "/lib64")
_NOWHERE: Final = "/dev/null"


def confine(directory: int, readable: Iterable[str] = ()) -> None:
    """Keep to what is in an open directory. `readable` are other files that will be read.

    Call it before there are other threads, which would keep what they have.
    """
    _libc.prctl(_SET_NO_NEW_PRIVS, *_words(1, 0, 0, 0))
    _keep_to(directory, readable)
    _drop_capabilities()


def _words(*values: int) -> list[ctypes.c_ulong]:
    return [ctypes.c_ulong(value) for value in values]


def _drop_capabilities() -> None:
    number = 0
    while _libc.prctl(_CAPBSET_DROP, *_words(number, 0, 0, 0)) == 0:
        number += 1
    _libc.prctl(_CAP_AMBIENT, *_words(_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    # Effective, permitted and inheritable, each in two halves.
    _libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24))


def version() -> int:
    """Which version of Landlock the kernel has, less than 1 for none."""
    return _system_call(_CREATE_RULESET, None, 0, _VERSION)


def _keep_to(directory: int, readable: Iterable[str]) -> None:
    known = version()
    if known < 1:
        return
    handled = (1 << _HANDLED[min(known, max(_HANDLED))]) - 1
    scopes = _SCOPES if known >= _SCOPES_SINCE else 0
    # An older kernel takes the longer form as well, if what it does not know is zero.
    attributes = struct.pack("=QQQ", handled, 0, scopes)
    rules = _system_call(_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        return
    try:
        _allow(rules, directory, handled & ~_MAKE_DEVICES)
        for path in {*_PROGRAMS, *_NAMES, *_code(), *readable}:
            _allow_path(rules, path, _READ_FILE | _READ_DIR)
        _allow_path(rules, _NOWHERE, _READ_FILE | _WRITE_FILE)
        _system_call(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _code() -> set[str]:
    """Where modules are, of which some are loaded late."""
    places = {sys.prefix, sys.base_prefix, *sys.path}
    return {place for place in places if os.path.isabs(place) and place != "/"}


def _allow_path(rules: int, path: str, rights: int) -> None:
    with suppress(OSError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(place).st_mode):
                rights &= _OF_FILES
            _allow(rules, place, rights)
        finally:
            os.close(place)


def _allow(rules: int, place: int, rights: int) -> None:
    _system_call(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)


def _system_call(number: int, *arguments: int | bytes | None) -> int:
    """What it returned; -1 when it failed."""
    words = [ctypes.c_ulong(each) if isinstance(each, int) else each for each in arguments]
    _libc.syscall.restype = ctypes.c_long
    return int(_libc.syscall(ctypes.c_long(number), *words))
