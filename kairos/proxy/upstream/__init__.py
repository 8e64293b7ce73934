"""Towards the origins: names, connections and their pools."""
