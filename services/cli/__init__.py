"""The `scristill` command: a thin client of the services' public contract.

    commands/   one module per group of commands: arguments in, calls, output
    client/     the calls, one module per area of the contract
    ingest/     files on disk into sources, and the watch over what becomes of them
    render/     messages into tables and lines for people

`--json` prints the messages of the contract as they are (`documents.py`); everything for people is made in `render`.
Only `local.py` knows the local stack.
"""
