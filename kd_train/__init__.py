"""From images to a trained pair, in PyTorch. Modules that only evaluate or calibrate import no torch."""
