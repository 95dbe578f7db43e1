"""Kernels and launchers of the Triton backend; they arrive in a later version."""
