"""The speed of training, by device."""
