"""What a hub decides, without a clock, a disk, a network or a thread."""
