"""The imgstore library: content-addressed operating-system images.

It prints nothing, parses no arguments and reads no environment. Every failure that leaves it is a
`chunkstore.errors.ChunkstoreError`.
"""
