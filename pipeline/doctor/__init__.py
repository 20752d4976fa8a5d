"""``fairway doctor``: what would cost an hour later, found in seconds before the money is spent.

``checks`` runs them side by side, ``hardware``, ``services`` and ``plan`` hold them, ``report`` is the command.
"""
