"""What runs a batch: one backend a file, behind one protocol."""
