"""How do the bytes of a file become an object again?

In: an open file that stands at an object. Out: the object, with the file behind it. Nothing here asks whether the file
can be trusted: that is the question of ``shoal.persistence.trust``. Open ``_plain.py`` first: it has all steps of a
load, in order. ``_reader.py`` draws how the C unpickler gets the arrays. `docs/persistence.md` lists the way of a load.
"""
