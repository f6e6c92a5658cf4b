"""Where experts live: placement, its prediction and price, and replay of traces."""
