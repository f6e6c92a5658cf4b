"""Commands of the program that need no torch: one command a file."""
