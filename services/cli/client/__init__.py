"""Calls to the services. Failures come out as `RemoteError`."""
