"""`python -m services.indexer`."""

from services.indexer.bootstrap import DEFINITION
from services.shared.command import run

if __name__ == "__main__":
    run(DEFINITION)
