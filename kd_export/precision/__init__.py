"""FP16, BF16 and INT8 graphs, and the gate that judges them."""
