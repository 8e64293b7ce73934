"""What ends a chain of filters: one handler a way of answering."""
