"""Adapters that carry bytes between clients and the service: grpcio, Envoy, worker processes."""
