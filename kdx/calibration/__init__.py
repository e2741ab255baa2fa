"""Thresholds, level maps and frame limits, learned from good images."""
