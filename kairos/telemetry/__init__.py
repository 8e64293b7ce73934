"""What the gateway tells of itself: access log, application log, metrics."""
