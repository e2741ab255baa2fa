"""What ``kdx report`` does: score labelled images, draw curves and pictures, and fill one page that opens offline.

It stands here because it brings evaluation, verification and the runtime together, which know
nothing of each other.
"""
