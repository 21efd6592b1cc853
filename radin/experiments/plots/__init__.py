"""The figures of the book: `paper` by number, `ideas` for the first page of a chapter.

`comparison`, `theory` and `imagenet` draw the chapters' results. All use `drawing` and `style`.
They may import `recipes` and the other rooms of `experiments`.
"""
