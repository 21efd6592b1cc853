"""Stage 1 of the paper: rank candidate soups by the accuracy of their averaged logits.

It needs a logit bank and nothing else: no images, no networks, no checkpoints.
May import: radin.errors, radin.files.
"""
