"""The admin API: one file a resource; app.py puts them together, server.py listens."""
