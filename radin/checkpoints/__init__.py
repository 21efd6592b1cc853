"""Checkpoints as people have them, opened as one zoo: formats, wrappers, prefixes, shards, checks.

No file is unpickled unsafely, and no weight is changed.
May import: radin.errors, radin.files.
"""
