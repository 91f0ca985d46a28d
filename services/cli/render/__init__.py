"""Messages of the contract as tables and lines for a terminal."""
