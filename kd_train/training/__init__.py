"""From a recipe and images to a run folder with a trained pair."""
