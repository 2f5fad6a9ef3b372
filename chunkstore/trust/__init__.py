"""Trust: keys, the documents they sign, and what a node believes. Values only, no I/O.

Two kinds of document are signed. The root document of a store names the keys and is itself signed
by root keys, which can be kept offline; each version is vouched for by the one before it. The refs
of images are signed by online keys that the root names. A node pins a root and remembers how far
every image has come.

Read on in this order: `keys`, `root`, `refs`, `memory`; `keyfile` is how keys are kept.
"""
