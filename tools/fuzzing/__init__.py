"""What `tools/fuzz_frames.py` is made of."""
