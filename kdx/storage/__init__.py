"""Files on disk: written in one step, locked, versioned, cached."""
