"""What a picture was made from and with: written into it, and compared when a run goes on from a snapshot."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from .. import images
from ..engines import Engine
from ..images import Picture
from ..objective import EVERYWHERE, NOWHERE
from ..pretrained import FastWeights, Weights
from ..version import __version__

# They change how the picture is computed, not which: a run may go on elsewhere
_MACHINE = ("device", "precision", "threads", "tile", "memory")


def named(picture: Picture) -> dict[str, str]:
    """What a picture was: a file by name and hash, anything else by the hash of its pixels."""
    if isinstance(picture, str | Path):
        try:
            if images.is_standard(picture):
                found = hashlib.sha256(images.standard_input())
            else:
                with Path(picture).open("rb") as file:
                    found = hashlib.file_digest(file, "sha256")
        except OSError:
            images.read_picture(picture)  # says why it cannot be read
            raise
        return {"file": str(picture), "sha256": found.hexdigest()}
    return {"pixels_sha256": images.pixels_sha256(picture)}


def named_masks(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the masks were."""
    found: dict[str, Any] = {}
    if options.get("protect") is not None:
        found["protect"] = named(options["protect"])
    if options.get("regions"):
        found["regions"] = [
            [named(content), [mask if is_word(mask) else named(mask) for mask in styles]]
            for content, styles in options["regions"]
        ]
    return found


def is_word(mask: Any) -> bool:
    """Whether a style mask is one of the words that stand for one."""
    return isinstance(mask, str) and mask in (EVERYWHERE, NOWHERE)


def made_with(weights: Weights | FastWeights, engine: Engine) -> dict[str, Any]:
    """Weights, engine and versions."""
    kind = {"architecture": weights.architecture} if isinstance(weights, Weights) else {"model": weights.model}
    return {
        "weights": {"name": weights.name, **kind, "sha256": weights.sha256, "source": weights.provenance["source"]},
        "versions": {
            "nstcore": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
        "engine": engine.describe(),
    }


def request(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decides which picture comes out, apart from rounding and file names."""
    parts: dict[str, Any] = {
        "content": _hash(metadata["content"]),
        "style": [_hash(style) for style in metadata["style"]],
        "weights": metadata["weights"]["sha256"],
        "size": f"{metadata['sizes'][-1]['width']}x{metadata['sizes'][-1]['height']} pixels",
    }
    if "start" in metadata:
        parts["network of the start"] = metadata["start"]["sha256"]
    if "protect" in metadata:
        parts["protect"] = _hash(metadata["protect"])
    for mask, styles in metadata.get("regions", ()):
        parts.setdefault("region", []).append([_hash(mask), *(s if isinstance(s, str) else _hash(s) for s in styles)])
    init = metadata["settings"]["init"]
    for start in metadata["init"]:
        init = init.replace(start["file"], _hash(start))
    # What "fit" came to is in the sizes
    settings = {k: v for k, v in metadata["settings"].items() if k not in (*_MACHINE, "init", "fit", "size")}
    parts |= {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
    parts |= {"--init": init, "ladder or pyramid": metadata["sizes"]}
    return json.loads(json.dumps(parts))  # as it is once a file has held it


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """In what two requests differ first, in words; None if they do not."""
    for key in {**then, **now}:
        a, b = then.get(key), now.get(key)
        if a == b:
            continue
        if not key.startswith("--") and key != "size":
            return f"another {key}"
        return f"{key.removeprefix('--').replace('-', ' ')} {_shown(a)}, not {_shown(b)}"
    return None


def _hash(what: Mapping[str, str]) -> str:
    return what.get("sha256") or what["pixels_sha256"]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_shown(v)}" for name, v in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
