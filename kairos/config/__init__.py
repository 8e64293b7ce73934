"""The configuration: what a file says, as one typed Config, or as the list of what is wrong with it."""
