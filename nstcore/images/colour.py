"""Whose colours the result has: luminance apart from chrominance, and one picture's colours given to another.

    Y = .299 R + .587 G + .114 B                      luminance; I and Q, the chrominance, are differences of R, G, B
    x' = A (x - mu_s) + mu_c,  A Sigma_s A^T = Sigma_c          linear matching of mean and covariance
    x' = Q_c(F_s(x)) per channel                                histogram matching

All take pixels (3, H, W), RGB in [0, 1], and compute in float64.

References
----------
.. [1] Hertzmann, Jacobs, Oliver, Curless, Salesin, Image Analogies, SIGGRAPH 2001: luminance matching; the symmetric
   square root.
.. [2] Gatys, Bethge, Hertzmann, Shechtman, Preserving Color in Neural Artistic Style Transfer, arXiv:1606.05897:
   Cholesky and symmetric matching of the style before the transfer, luminance-only transfer.
.. [3] Gatys, Ecker, Bethge, Hertzmann, Shechtman, Controlling Perceptual Factors in Neural Style Transfer, CVPR 2017.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from ..errors import OptionError, ShapeError

WEIGHTS = np.array([0.299, 0.587, 0.114])  # of R, G and B in the luminance of NTSC's YIQ
METHODS = ("cholesky", "symmetric")
_EPSILON = 1e-5  # variances below this share of the largest count as that share: a grey picture has an inverse too
LEAST_VARIANCE = 1e-8  # far below what rounding to 8 bits alone adds, 1.3e-6

Axes: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]  # mean (3,), variances (3,), directions (3, 3), in columns


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Luminance (H, W) of pixels (3, H, W), of their floating-point type."""
    return np.tensordot(WEIGHTS, pixels, axes=1).astype(_float(pixels), copy=False)


def with_luminance(pixels: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """The colours of a picture at another luminance.

        rgb' = Y + k (rgb - luminance(rgb))

    with k = 1 (the chrominance I, Q stays) wherever that is a colour, and else the largest k at which it is one: the
    pixel goes towards grey, and its luminance and hue stay.

    Parameters
    ----------
    pixels : ndarray of shape (3, H, W), in [0, 1]
        Whose chrominance is kept: the content.
    Y : ndarray of shape (H, W)
        The luminance to have: the result's. Cut off to [0, 1].

    Returns
    -------
    ndarray of shape (3, H, W), in [0, 1], of the type of `pixels`

    Raises
    ------
    ShapeError
        If the shapes do not fit together.
    """
    if Y.shape != pixels.shape[1:]:
        raise ShapeError(f"luminance: expected {pixels.shape[1:]} for pixels {pixels.shape}, got {Y.shape}; resize it")
    rgb = pixels.astype(np.float64)
    chrominance = rgb - luminance(rgb)
    Y = np.clip(np.asarray(Y, np.float64), 0, 1)
    room = np.where(chrominance > 0, 1 - Y, Y)  # from Y to the end of the range on the side the channel goes to
    wanted = np.abs(chrominance)
    k = np.divide(room, wanted, out=np.ones_like(rgb), where=wanted > room).min(axis=0)
    return np.clip(Y + k * chrominance, 0, 1).astype(_float(pixels))


def match_luminance(style: np.ndarray, content: np.ndarray) -> np.ndarray:
    """Luminance of the style with the mean and standard deviation of the content's ([3]_, equation 10).

        L_s' = sigma_c/sigma_s (L_s - mu_s) + mu_c

    Parameters
    ----------
    style, content : ndarray of shape (3, H, W) in [0, 1], or (H, W), luminance already

    Returns
    -------
    ndarray of shape (H, W), cut off to [0, 1], of the type of `style`
        A style without contrast becomes the content's mean.
    """
    L_s, L_c = (np.asarray(p if p.ndim == 2 else luminance(p), np.float64) for p in (style, content))
    deviation = L_s - L_s.mean()
    gain = L_c.std() / max(L_s.std(), np.sqrt(LEAST_VARIANCE))
    return np.clip(gain * deviation + L_c.mean(), 0, 1).astype(_float(style))


def linear_map(
    style: np.ndarray,
    content: np.ndarray,
    method: str = "cholesky",
    style_weights: np.ndarray | None = None,
    content_weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The linear map of colours, x' = A x + b, that `match_linear` applies before it cuts off.

        cholesky:   A = L_c L_s^-1,                 L L^T = Sigma, lower triangular
        symmetric:  A = Sigma_c^1/2 Sigma_s^-1/2,   both roots symmetric

    Variances of the style (along its principal axes) below 1e-5 of the largest count as that much.

    Returns
    -------
    A : ndarray of shape (3, 3), float64
    b : ndarray of shape (3,), float64
    """
    if method not in METHODS:
        raise OptionError(f"colour matching: expected {' or '.join(METHODS)}, got {method!r}")
    return map_between(_principal_axes(style, style_weights), _principal_axes(content, content_weights), method)


def map_between(style: Axes, content: Axes, method: str) -> tuple[np.ndarray, np.ndarray]:
    """`linear_map` from the mean, the variances and the directions of the colours of each."""
    mu_s, values_s, axes_s = style
    mu_c, values_c, axes_c = content
    values_s = np.maximum(values_s, max(_EPSILON * values_s.max(), LEAST_VARIANCE))
    if method == "symmetric":
        A = (axes_c * np.sqrt(values_c)) @ axes_c.T @ (axes_s / np.sqrt(values_s)) @ axes_s.T
    else:
        A = np.linalg.solve(_cholesky(values_s, axes_s).T, _cholesky(values_c, axes_c).T).T
    return A, mu_c - A @ mu_s


def match_linear(
    style: np.ndarray,
    content: np.ndarray,
    method: str = "cholesky",
    style_weights: np.ndarray | None = None,
    content_weights: np.ndarray | None = None,
) -> np.ndarray:
    """The style in the colours of the content: mean and covariance of its RGB become the content's.

    Parameters
    ----------
    style : ndarray of shape (3, H, W), in [0, 1]
    content : ndarray of shape (3, H', W'), in [0, 1]
    method : "cholesky" or "symmetric"
        Both match exactly; they differ by a rotation. Symmetric depends on no order of the channels.
    style_weights, content_weights : ndarray of shape (H, W), (H', W'), optional
        What counts and how much: alpha or a mask, 0 or more. All pixels are mapped.

    Returns
    -------
    ndarray of shape (3, H, W), cut off to [0, 1], of the type of `style`
        `linear_map` is the map without the cutting off.

    Raises
    ------
    OptionError
        If there is no such method, or the weights are 0 everywhere.
    ShapeError
        If weights have another shape than their picture.

    References
    ----------
    [1]_, [2]_
    """
    A, b = linear_map(style, content, method, style_weights, content_weights)
    matched = np.tensordot(A, style.astype(np.float64), axes=1) + b[:, None, None]
    return np.clip(matched, 0, 1).astype(_float(style))


def match_histogram(
    style: np.ndarray,
    content: np.ndarray,
    style_weights: np.ndarray | None = None,
    content_weights: np.ndarray | None = None,
) -> np.ndarray:
    """The style in the colours of the content: the distribution of each channel becomes the content's.

    A value of the style that holds the ranks F- to F becomes the mean of the content's quantile function over them:
    exact where values are distinct, and where many pixels share a value (8 bits, a flat ground) the map that is
    nearest to the quantile function. Monotone; the mean of each channel becomes the content's.

    Parameters
    ----------
    style, content, style_weights, content_weights
        As in `match_linear`.

    Returns
    -------
    ndarray of shape (3, H, W), in [0, 1], of the type of `style`
    """
    w_s, w_c = _shares(style, style_weights), _shares(content, content_weights)
    matched = [
        _match_channel(s.ravel().astype(np.float64), w_s, c.ravel().astype(np.float64), w_c)
        for s, c in zip(style, content, strict=True)
    ]
    return np.clip(np.stack(matched).reshape(style.shape), 0, 1).astype(_float(style))


def _match_channel(s: np.ndarray, w_s: np.ndarray, c: np.ndarray, w_c: np.ndarray) -> np.ndarray:
    order = np.argsort(c, kind="stable")
    values, index = np.unique(s, return_inverse=True)
    mass = np.bincount(index, w_s, minlength=len(values))
    return match_levels(values, mass, c[order], w_c[order])[index]


def match_levels(values: np.ndarray, mass: np.ndarray, c: np.ndarray, w_c: np.ndarray) -> np.ndarray:
    """What each of the style's values becomes.

    Parameters
    ----------
    values, mass : ndarray of shape (N,)
        The style's values, rising, and the share of its pixels that has each; some of it above 0.
    c, w_c : ndarray of shape (M,)
        The same of the content; values may come more than once.
    """
    ranks = np.concatenate([[0.0], np.cumsum(w_c)])
    integral = np.concatenate([[0.0], np.cumsum(w_c * c)])  # of the quantile function, up to each rank
    ends = np.concatenate([[0.0], np.cumsum(mass)])
    share = np.diff(np.interp(ends, ranks, integral))
    counts = mass > 1e-15  # a value that only pixels of weight 0 have goes where its neighbours' line leads
    return np.interp(values, values[counts], share[counts] / mass[counts])


def _principal_axes(pixels: np.ndarray, weights: np.ndarray | None) -> Axes:
    """Of the colours; variances >= 0."""
    share = _shares(pixels, weights)
    x = pixels.reshape(3, -1).astype(np.float64)
    mu = x @ share
    x -= mu[:, None]
    values, axes = np.linalg.eigh((x * share) @ x.T)
    return mu, np.maximum(values, 0), axes


def _cholesky(values: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Lower triangular L, diagonal >= 0, with L L^T = axes diag(values) axes^T, which may be singular."""
    L = np.linalg.qr((axes * np.sqrt(values)).T)[1].T
    return L * np.where(np.diag(L) < 0, -1, 1)


def _shares(pixels: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Weights of the pixels as one row that sums to 1."""
    if weights is None:
        n = pixels[0].size
        return np.full(n, 1 / n)
    if weights.shape != pixels.shape[1:]:
        raise ShapeError(f"weights: expected {pixels.shape[1:]} for pixels {pixels.shape}, got {weights.shape}")
    w = weights.ravel().astype(np.float64)
    if not (w.min() >= 0 and 0 < w.sum() < np.inf):
        raise OptionError("colour matching: the mask or alpha leaves no pixel to match; make part of it white")
    return w / w.sum()


def _float(pixels: np.ndarray) -> type[np.floating]:
    return np.float64 if pixels.dtype == np.float64 else np.float32
