"""Which module diverges: each is run again on the artifact's own inner values."""
