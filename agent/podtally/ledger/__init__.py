"""The books themselves: pure, values in, values out; no clock, no kernel, no files but the checkpoint."""
