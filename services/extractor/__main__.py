"""`python -m services.extractor`."""

from services.extractor.bootstrap import DEFINITION
from services.shared.command import run

if __name__ == "__main__":
    run(DEFINITION)
