"""Files: written whole or not at all, resumed by rows, found by place or address, without code."""
