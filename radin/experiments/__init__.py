"""What the chapters of the book need and a user of the module does not.

May import: radin.recipes and what it may import. Only the command line, the book and the public
names of `radin` import this room.
"""
