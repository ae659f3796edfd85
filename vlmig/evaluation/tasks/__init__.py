"""Tasks: the declared ones (YAML beside this file), their items and their files."""
