"""The commands, by group. Each parses, calls and prints; none holds logic that a test would want alone."""
