"""Live parity: some answers are computed again on a reference and compared."""
