"""The parts of the page, as plain records."""
