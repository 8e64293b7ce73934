"""When a request is slow enough for a second attempt: see hedge.pyx. Its users have it as an object."""
