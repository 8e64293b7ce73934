"""Control plane: what is done once for all workers, off the path of requests."""
