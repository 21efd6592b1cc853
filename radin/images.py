"""`radin.data.images` under the name of version 0.1, which scripts still import."""

import sys

from radin.data import images

sys.modules[__name__] = images
