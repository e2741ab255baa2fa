"""The figures that kdx publishes, measured: ``python -m benchmarks NAME``; README.md lists the names."""
