"""Very many frames, many threads, damaged files, and commands that are killed or run together."""
