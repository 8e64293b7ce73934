"""What is typed: words become one call."""
