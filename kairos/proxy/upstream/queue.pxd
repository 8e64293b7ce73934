"""Where requests wait for a backend: see queue.pyx. Its users have it as an object, for it is no hot path."""
