"""Train the zoos of the book: digits, photos, broken ones, and averages along one run."""
