"""Square root of a symmetric positive semi-definite matrix, and its derivative.

        C = U diag(lambda) U^T,   S = U diag(root) U^T,   root = sqrt(lambda),   so S S = C

A change of C by dC changes S by dS, and from S S = C follows S dS + dS S = dC: a Lyapunov (Sylvester) equation. In the
eigenbasis S is diagonal and the equation falls apart into one for each element, (root_i + root_j) dS_ij = dC_ij. The
map from dC to dS is its own adjoint, so the gradient goes the same way: with dS now the upstream gradient,

        dC = U [ (U^T dS U)_ij / (root_i + root_j) ] U^T,      the solution of  S dC + dC S = dS

No difference of eigenvalues stands below the line: repeated eigenvalues do no harm. Where root_i + root_j = 0 the
derivative does not exist (the root of x at x = 0) and is taken as 0.

Only the symmetric part of C counts, and of dS.

References
----------
.. [1] Higham, "Functions of Matrices: Theory and Computation", SIAM 2008, section 6.1.
.. [2] Giles, "An extended collection of matrix derivative results for forward and reverse mode algorithmic
   differentiation", Oxford report NA-08/01, 2008.
"""

from __future__ import annotations

import numpy as np

from ..errors import ShapeError
from . import _shapes


def matrix_sqrt_forward(C: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Square root of C.

    Parameters
    ----------
    C : ndarray of shape (N, N)
        Symmetric, positive semi-definite. Eigenvalues that rounding cannot tell from 0, negative ones among them, are
        taken as 0.

    Returns
    -------
    S : ndarray of shape (N, N), dtype of `C`
        Symmetric, positive semi-definite.
    (U, root) : ndarrays of shapes (N, N) and (N,)
        Eigenvectors, in columns, and square roots of the eigenvalues: what the backward pass takes. Always
        in float64: the roots of small eigenvalues need its digits.
    """
    _square("C", C)
    values, U = np.linalg.eigh(((C + C.T) / 2).astype(np.float64))
    noise = C.shape[0] * max(np.finfo(C.dtype).eps, np.finfo(np.float64).eps) * abs(values).max(initial=0)
    root = np.sqrt(np.where(values > noise, values, 0))
    half = U * np.sqrt(root)  # a product with its own transpose is symmetric to the last bit
    return (half @ half.T).astype(C.dtype), (U, root)


def matrix_sqrt_backward(dS: np.ndarray, roots: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Gradient (N, N), symmetric, with respect to C, through S = C^(1/2); from dS (N, N) and (U, root)."""
    U, root = roots
    _shapes.equal("dS", dS, U.shape, f"U {U.shape}")
    total = root[:, None] + root
    turned = U.T @ ((dS + dS.T) / 2) @ U
    dC = np.divide(turned, total, out=np.zeros_like(turned), where=total > 0)
    return (U @ dC @ U.T).astype(dS.dtype)


def _square(name: str, a: np.ndarray) -> None:
    _shapes.rank(name, a, "(N, N)")
    if a.shape[0] != a.shape[1]:
        raise ShapeError(f"{name}: expected a square matrix (N, N), got shape {a.shape}")
