"""Qdrant's own engine behind Qdrant's own gRPC protocol: one process, one node, for local use.

`python -m deploy.local.qdrant --storage DIR --port N` serves the `qdrant` package of protos with the engine of
`qdrant-edge-py`. README.md says what is supported, what is guaranteed and what was measured.
"""
