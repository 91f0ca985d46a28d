"""The way from PostgreSQL to Qdrant under a seeded, deterministic scheduler. See `README.md`."""
