"""Figures of merit of a detector, and the detectors they are measured with."""
