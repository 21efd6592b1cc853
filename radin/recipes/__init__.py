"""Stage 2 of the paper: spend a budget of evaluations and return a soup, with every recipe it is
compared to.

May import: radin.theory and what it may import.
"""
