"""From a map and a score to a verdict."""
