"""The books themselves: values in, values out; of files, the checkpoint only."""
