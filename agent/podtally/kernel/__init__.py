"""What lies in the kernel: the layout, the maps, the programs, and getting them there."""
