"""Images and labels: named data sets, image folders, the embedded digits, and batches of them.

May import: radin.ranking (for the projection of classes) and what it may import.
"""
