"""The Triton backend: the operators of ``indeed_ext/schemas.py`` as Triton kernels.

Importing this package does not import Triton: :mod:`.operators` registers the operators by
their schemas, and the first call of one loads the kernels.
"""
