"""``kdx train-many``: each product of a catalogue, from images to a verified bundle.

It stands here because it brings training and export together, which know nothing of each other.
"""
