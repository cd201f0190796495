"""How does an object become the bytes of a file?

In: an object, and a function that writes bytes. Out: the bytes of joblib's format, and the footer that describes them.
Open ``_writer.py`` first: it draws how arrays are spliced into the stream of the C pickler.
"""
