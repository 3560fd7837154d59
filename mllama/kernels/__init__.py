"""Own operations in Mojo, compiled by MAX, and how Python calls them.

A folder of ``.mojo`` files is a package of operations.  The tests hold each against a
plain NumPy form.
"""
