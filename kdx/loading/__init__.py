"""From a path to a detector, or to a group of detectors."""
