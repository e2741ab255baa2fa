"""A station on the line: watched and served, through kills and a full disk, and under load."""
