"""Run networks over images: one pass for many networks, on one device, many devices or a cluster.

May import: radin.soup, radin.data and what they may import.
"""
