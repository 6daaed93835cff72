"""Text out of Python's documentation."""

from __future__ import annotations

import pytest

from modelworks.recipe.extraction import tidy
from modelworks.recipe.reference import docstrings_text, rst_text

RST = """
:mod:`bisect` --- Array bisection
=================================

.. module:: bisect
   :synopsis: Not shown.
.. sectionauthor:: Somebody

Keeps a list *sorted*, see `the paper <https://example.org>`_::

   >>> x = 1

.. function:: bisect_left(a, x, lo=0)
              bisect(a)

   Locate the point for *x* in ``a``.

   .. versionchanged:: 3.10
      Added the *key*.

.. a comment
   of two lines

Examples
--------
Last words.
"""


def test_restructured_text_gives_headings_and_names() -> None:
    assert tidy(rst_text(RST)) == (
        "# bisect --- Array bisection\n\nKeeps a list sorted, see the paper:\n\n>>> x = 1\n\n###### bisect_left(a, x, lo=0)\n\n"
        "bisect(a)\n\nLocate the point for x in a.\n\n3.10\nAdded the key.\n\n## Examples\n\nLast words."
    )


def test_a_program_gives_its_docstrings_with_their_signatures() -> None:
    program = '"""A module."""\nclass Box:\n    """Holds\n    things."""\n    def open(self, how=1):\n        """Open it."""\n'
    program += "def bare():\n    pass\nasync def far():\n    '''Far away.'''\n"
    assert docstrings_text(program) == (
        "A module.\n\n## Box\n\nHolds\nthings.\n\n### Box.open(self, how=1)\n\nOpen it.\n\n## far()\n\nFar away."
    )
    with pytest.raises(SyntaxError):
        docstrings_text("def")
