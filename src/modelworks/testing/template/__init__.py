"""Start a capability of your own: `python -m modelworks.testing.template NAME FOLDER` writes a project that already works.

What it writes is a real, tiny text classifier in pure Python (nearest centroid over character n-grams). It is discovered,
trained, evaluated, deployed and invoked without touching any other file; replace its parts one by one.
"""

from modelworks.testing.template.render import render

__all__ = ["render"]
