"""nstcore: neural style transfer from scratch.

    weights   = nstcore.load_weights("vgg19.h5")             # or "auto", "builtin", "vgg19"
    objective = nstcore.Objective(weights, content, style)
    terms, gradient = objective(pixels)                      # pixels: (3, H, W), RGB in [0, 1]
    result    = nstcore.stylize(content, style, size=512, iterations=300)
    result    = nstcore.stylize_fast(content, style, size=512)    # one pass of a network trained for it
    result.save("out.png")

`nstcore.ops` is the book: every operation, forward and backward, beside its equation; `nstcore.studies` looks into
networks and styles. Names are loaded when they are first used, so that `import nstcore` (and with it `--help`) costs
nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from . import ops, studies
    from .objective import Objective, Terms
    from .optim import minimize_adam, minimize_lbfgs
    from .pretrained import FastWeights, Weights, load_fast_weights, load_weights
    from .transfer import FastResult, Result, stylize, stylize_fast

__all__ = [
    "FastResult",
    "FastWeights",
    "Objective",
    "Result",
    "Terms",
    "Weights",
    "__version__",
    "load_fast_weights",
    "load_weights",
    "minimize_adam",
    "minimize_lbfgs",
    "ops",
    "studies",
    "stylize",
    "stylize_fast",
]

_HOMES = {
    "FastResult": "transfer",
    "FastWeights": "pretrained",
    "Objective": "objective",
    "Result": "transfer",
    "Terms": "objective",
    "Weights": "pretrained",
    "load_fast_weights": "pretrained",
    "load_weights": "pretrained",
    "minimize_adam": "optim",
    "minimize_lbfgs": "optim",
    "stylize": "transfer",
    "stylize_fast": "transfer",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in ("ops", "studies"):
        return import_module(f".{name}", __name__)
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
