"""The figures of the book, by chapter."""
