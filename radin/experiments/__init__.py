"""What the chapters of the book need and a user of the module does not.

Only the command line, the book and the public names may import it.
"""
