"""First- and second-order expansions of soups and ensembles, by autograd.

May import: radin.inference and what it may import.
"""
