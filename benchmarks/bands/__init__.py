"""Large frames in tiles: agreement with the whole frame, seams, time and memory."""
