"""The Triton backend: the operators of ``csrc/operators.cpp`` as Triton kernels.

Importing this package does not import Triton: :mod:`.operators` registers the operators by
their schemas, and the first call of one loads the kernels.
"""
