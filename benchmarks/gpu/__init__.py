"""Every method on this machine's GPU, by every backend that is installed."""
