"""Reading archives: from compressed bytes to the entries of a manifest, streamed.

`decompression` tells what an archive is compressed with, `source` hands out its bytes, `members`
makes members of them (with `fields`, `extensions`, `pax`, `holes`, `attributes` and `paths` for
their parts), `unpacking` lays these into a `tree` of entries and their `content` into chunks,
`dumpdir` knows incremental archives. `layers` finds the layers of container images.

An archive that imgstore never saw becomes a manifest so:

    with Tree(folder) as tree, open(name, "rb") as file:
        reader = TarReader(Source(open_blocks(file, name), name))
        unpack(reader, tree, parameters, sink)
        root = manifest.build(tree.entries(), save)

`sink` takes the chunks (`content.Sink`), or lets them go when only their digests are wanted.
"""
