"""One step a file, in the order of their numbers. What is released is never changed."""
