"""What ``kdx train-many`` does: every product of a catalogue in a process of its own, from images to a verified bundle.

It stands here because it brings training and export together, which know nothing of each other.
"""
