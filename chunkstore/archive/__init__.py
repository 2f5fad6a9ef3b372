"""Archives: images as tar files, for the world that knows nothing of imgstore.

`header` says what one member is, `sparse` how a file with holes is laid out, `tar` puts members
one after the other, `compression` is what the bytes go through on their way out, `selection`
decides what a differential archive holds. Deletions are told by a list beside it (`sidecar`), or in
it: `dumpdir` has GNU tar's way, `whiteout` that of container images. Which readers understand what
is in `docs/archives.md`.
"""
