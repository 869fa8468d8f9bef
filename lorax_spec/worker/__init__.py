"""The engine behind gRPC: token requests in, token events out."""
