"""Where objects live: backends, packs and their catalog, refs, the store that joins them."""
