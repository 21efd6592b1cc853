"""The published ingredients and results of Model soups, and a stand-in for those without ImageNet.

It may import everything up to `recipes`, and `intervals` and `zoos` in `experiments`.
"""
