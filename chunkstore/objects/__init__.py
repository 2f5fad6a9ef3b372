"""Pure formats: bytes in, values out. Nothing here touches a file, a clock or the network.

The byte layouts are specified in `docs/format.md`; each module names its section.
"""
