"""Analysis: rows in, typed results out. No words for people, no formatting, no files, no plots: those are the report's."""
