"""Detectors in production: the log of verdicts, drift, metrics."""
