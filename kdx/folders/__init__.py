"""Folders of images: what is found in them, what is left out, which images are good."""
