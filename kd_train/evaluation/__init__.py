"""The figures of merit of a detector, and the detectors that are measured for comparison."""
