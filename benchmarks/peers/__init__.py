"""kdx beside anomalib's models, each by its own inferencers, on the same CPU."""
