"""How do the bytes of a file become an object again?

In: an open file that stands at an object. Out: the object, with the file behind it. Nothing here asks whether the file
can be trusted: that is the question of ``shoal.persistence.trust``. Open ``_reader.py`` first: it draws how arrays come
into the hands of the C unpickler.
"""
