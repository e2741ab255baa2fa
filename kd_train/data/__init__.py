"""Images for training and evaluation: scanned, cleaned, split, drawn."""
