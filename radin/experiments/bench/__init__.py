"""Soup benches: zoos all of whose soups have been evaluated once and tabulated."""
