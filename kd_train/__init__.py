"""Training, in PyTorch. Modules that only read data or evaluate do not import torch."""
