"""Where a module comes from: one file for each kind of source, and what they share."""
