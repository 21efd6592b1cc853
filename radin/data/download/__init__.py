"""Get the named data sets from their official sources: the catalog, the transfer, the archives.

The files of a data set are checked against their SHA-256 before they are used.
"""
