"""What a server shows of itself: metrics, a log of failures, traces."""
