"""Files: rows, JSON streams, hashes, atomic writes."""
