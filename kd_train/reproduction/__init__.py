"""The papers' tables beside ours: what they print, what is trained for it, and what differs."""
