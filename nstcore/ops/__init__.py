"""The book: one file per operation, in pure NumPy, for any float type, each with its equation, forward and backward.

This is what the engines are judged by. It is written to be read, and never tuned. A forward pass takes the letters of
its equation and returns a new array; the backward pass takes the upstream gradient first, named with a `d`.
"""

from .bias import bias_backward, bias_forward
from .block_mean import block_mean_backward, block_mean_forward
from .content_loss import content_backward, content_forward
from .conv import PADDINGS, conv_backward, conv_backward_filters, conv_forward
from .covariance import covariance_backward, covariance_forward
from .depthwise import depthwise_backward, depthwise_backward_filters, depthwise_forward
from .global_average import global_average_backward, global_average_forward
from .gram import gram_backward, gram_forward
from .instance_norm import instance_norm_backward, instance_norm_forward
from .linear import linear_backward, linear_backward_filters, linear_forward
from .matrix_sqrt import matrix_sqrt_backward, matrix_sqrt_forward
from .moments import moments_backward, moments_forward
from .pool import (
    POOLINGS,
    average_pool_backward,
    average_pool_forward,
    l2_pool_backward,
    l2_pool_forward,
    max_pool_backward,
    max_pool_forward,
    pool_backward,
    pool_forward,
)
from .preprocess import ORDERS, preprocess_backward, preprocess_forward
from .relu import relu6_backward, relu6_forward, relu_backward, relu_forward
from .resize import resize_bilinear_backward, resize_bilinear_forward, resize_nearest_backward, resize_nearest_forward
from .sigmoid import sigmoid_backward, sigmoid_forward
from .style_centred import centred_backward, centred_forward
from .style_loss import style_backward, style_forward
from .style_mean_std import mean_std_backward, mean_std_forward, standard_deviations
from .style_w2 import W2Cache, w2_backward, w2_forward, w2_target
from .total_variation import total_variation_backward, total_variation_forward

__all__ = [
    "ORDERS",
    "PADDINGS",
    "POOLINGS",
    "W2Cache",
    "average_pool_backward",
    "average_pool_forward",
    "bias_backward",
    "bias_forward",
    "block_mean_backward",
    "block_mean_forward",
    "centred_backward",
    "centred_forward",
    "content_backward",
    "content_forward",
    "conv_backward",
    "conv_backward_filters",
    "conv_forward",
    "covariance_backward",
    "covariance_forward",
    "depthwise_backward",
    "depthwise_backward_filters",
    "depthwise_forward",
    "global_average_backward",
    "global_average_forward",
    "gram_backward",
    "gram_forward",
    "instance_norm_backward",
    "instance_norm_forward",
    "l2_pool_backward",
    "l2_pool_forward",
    "linear_backward",
    "linear_backward_filters",
    "linear_forward",
    "matrix_sqrt_backward",
    "matrix_sqrt_forward",
    "max_pool_backward",
    "max_pool_forward",
    "mean_std_backward",
    "mean_std_forward",
    "moments_backward",
    "moments_forward",
    "pool_backward",
    "pool_forward",
    "preprocess_backward",
    "preprocess_forward",
    "relu6_backward",
    "relu6_forward",
    "relu_backward",
    "relu_forward",
    "resize_bilinear_backward",
    "resize_bilinear_forward",
    "resize_nearest_backward",
    "resize_nearest_forward",
    "sigmoid_backward",
    "sigmoid_forward",
    "standard_deviations",
    "style_backward",
    "style_forward",
    "total_variation_backward",
    "total_variation_forward",
    "w2_backward",
    "w2_forward",
    "w2_target",
]
