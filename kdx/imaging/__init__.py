"""Images: decoded, compared, resampled, tiled, and checked before they are judged."""
