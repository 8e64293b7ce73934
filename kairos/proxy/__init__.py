"""Data plane, in the order a request meets it: listener, client, exchange, filters, handlers, upstream."""
