"""Files on disk: atomic writes, locks, versioned records, hashes and the cache."""
