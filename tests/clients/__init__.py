"""Clients of the API as their users run them: unmodified, each in an environment of its
own, against a server with the demo model.

A client has a file of pinned requirements and a program, both with its name: of Python
``.txt``, made from ``.in``, and ``.py``; of Node ``.json`` and ``.mjs``.  The program's
functions ``check_*`` take the server's URL, and fail by an exception.
"""
