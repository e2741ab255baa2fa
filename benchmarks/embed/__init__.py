"""What the C library adds to the runtime's own call."""
