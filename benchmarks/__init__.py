"""What kdx claims, measured: ``python -m benchmarks NAME`` from the repository's root; README.md lists the names."""
