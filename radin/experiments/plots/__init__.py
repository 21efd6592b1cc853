"""The figures of the book: `paper` by number, `ideas` for the first page of a chapter.

`comparison`, `theory` and `imagenet` draw the chapters' results. All use `drawing` and `style`.
May import: the other rooms of radin.experiments and what they may import.
"""
