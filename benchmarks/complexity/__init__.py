"""Parameters, operations, graph size and memory of every method at its paper's size."""
