"""A station on the line: judges what arrives, and keeps one record of each verdict."""
