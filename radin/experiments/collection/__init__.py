"""Many small zoos, planned before they are made: verdicts on recipes need zoos as the sample.

It may import the other rooms of `radin.experiments` and everything below them.
"""
