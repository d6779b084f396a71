"""Pictures in and out. Everywhere else a picture is pixels (3, H, W), RGB in [0, 1], row by row."""

from .colour import (
    linear_map,
    luminance,
    match_histogram,
    match_linear,
    match_luminance,
    with_luminance,
)
from .masks import read_mask
from .pictures import Loaded, Picture, as_list, as_pixels, load, to_uint8
from .read import read_picture
from .resize import resample, resize_mask, resize_pixels
from .sheet import contact_sheet
from .sizes import fit, target_size
from .sources import MOST_PIXELS, is_standard, standard_input
from .write import check_output, read_metadata, write_picture

__all__ = [
    "MOST_PIXELS",
    "Loaded",
    "Picture",
    "as_list",
    "as_pixels",
    "check_output",
    "contact_sheet",
    "fit",
    "is_standard",
    "linear_map",
    "load",
    "luminance",
    "match_histogram",
    "match_linear",
    "match_luminance",
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
    "write_picture",
]
