"""Pictures in and out. Everywhere else a picture is pixels (3, H, W), RGB in [0, 1], row by row."""

from .colour import (
    linear_map,
    luminance,
    match_histogram,
    match_linear,
    match_luminance,
    with_luminance,
)
from .colour_strips import (
    grey,
    match_histogram_strips,
    match_linear_strips,
    match_luminance_strips,
    with_luminance_strips,
)
from .masks import read_mask
from .pictures import Loaded, Picture, as_list, as_pixels, load, pixels_sha256, to_uint8
from .read import read_picture
from .resize import numbers, resample, resize_mask, resize_pixels
from .sheet import contact_sheet
from .sizes import fit, target_size
from .sources import LARGE, MOST_LARGE, MOST_PIXELS, is_standard, standard_input
from .write import check_output, read_metadata, write_picture

__all__ = [
    "LARGE",
    "MOST_LARGE",
    "MOST_PIXELS",
    "Loaded",
    "Picture",
    "as_list",
    "as_pixels",
    "check_output",
    "contact_sheet",
    "fit",
    "grey",
    "is_standard",
    "linear_map",
    "load",
    "luminance",
    "match_histogram",
    "match_histogram_strips",
    "match_linear",
    "match_linear_strips",
    "match_luminance",
    "match_luminance_strips",
    "numbers",
    "pixels_sha256",
    "read_mask",
    "read_metadata",
    "read_picture",
    "resample",
    "resize_mask",
    "resize_pixels",
    "standard_input",
    "target_size",
    "to_uint8",
    "with_luminance",
    "with_luminance_strips",
    "write_picture",
]
