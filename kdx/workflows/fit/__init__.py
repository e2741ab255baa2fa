"""``kdx fit``: screen latencies without training, train what can keep the budget, report.

It stands here because it brings training and export together, which know nothing of each other.
"""
