"""May this file be loaded, and what would it do?

In: an open file, and what ``load(trusted=)`` allows. Out: a list of everything that the file would import and store
(``inspect``), or the object, if all of that is allowed (``load``). Open ``_survey.py`` first: it draws the two passes.
`docs/trust.md` says what is promised.
"""
