"""``kdx report``: score labelled images, draw curves and pictures, fill an offline page.

It stands here because it brings evaluation, verification and the runtime together, which know
nothing of each other.
"""
