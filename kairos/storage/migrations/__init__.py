"""Steps from one schema to the next, in alembic's way; what runs them is database.py."""
