"""`python -m services.scheduler [serve|migrate] [--check] [--print-config]`."""

from services.scheduler.bootstrap import DEFINITION
from services.shared import command

if __name__ == "__main__":
    command.run(DEFINITION)
