"""One question a file: each has `run(bench)`, which measures, and `markdown(result)`, which tells."""

from . import overhead

ALL = {module.__name__.rsplit(".")[-1]: module for module in (overhead,)}
