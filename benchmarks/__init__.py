"""The figures that kdx publishes: ``python -m benchmarks NAME``; README.md lists the names."""
