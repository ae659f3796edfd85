"""Reports: tables for the terminal, and self-contained HTML pages with every image."""
