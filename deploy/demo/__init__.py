"""What `make demo` shows: the whole way from documents to answers, and that what the design promises holds."""
