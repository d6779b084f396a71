"""Pictures in and out. Everywhere else a picture is pixels (3, H, W), RGB in [0, 1], row by row."""

from .pictures import Picture, as_list, as_pixels, fit, resize_pixels, to_uint8
from .read import read_picture
from .write import check_output, read_metadata, write_picture

__all__ = [
    "Picture",
    "as_list",
    "as_pixels",
    "check_output",
    "fit",
    "read_metadata",
    "read_picture",
    "resize_pixels",
    "to_uint8",
    "write_picture",
]
