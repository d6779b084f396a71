"""The layers that feed-forward networks have, and VGG has not."""

from __future__ import annotations

from .topic import Topic

_RIGHT = "tests/test_ops.py::test_every_backward_is_the_gradient_of_its_forward"
_LAYERS = "tests/test_ops_layers.py"
_EQUAL = "tests/test_operations.py"

LAYERS = {
    "depthwise": Topic(
        title="depthwise convolution: each channel with a filter of its own",
        equation="""\
y[c,p,q] = b[c] + sum_{r,s} w[c,r,s] xp[c,t*p+r,t*q+s]       r < R, s < S, stride t; xp as in conv

dxp[c,i,j] = sum_{r,s} w[c,r,s] dy[c,(i-r)/t,(j-s)/t]        where t divides both; dy is 0 outside
dw[c,r,s]  = sum_{p,q} dy[c,p,q] xp[c,t*p+r,t*q+s]           not needed to paint
db[c]      = sum_{p,q} dy[c,p,q]                             not needed to paint""",
        book=(
            "nstcore.ops.depthwise_forward",
            "nstcore.ops.depthwise_backward",
            "nstcore.ops.depthwise_backward_filters",
        ),
        engines=(
            "nstcore.engines.cpu.operations.NativeOperations.depthwise",
            "nstcore.engines.cuda.general_conv.depthwise",
            "nstcore.fast.magenta.MagentaNetwork._same",
        ),
        kernels=(
            "cuda/depthwise/01_direct.cu",
            "cpu/direct.c",
            "cpu/patch.c",
        ),
        tests=(
            _RIGHT,
            f"{_LAYERS}::test_a_depthwise_convolution_equals_its_sum_term_by_term",
            f"{_EQUAL}::test_a_depthwise_convolution_equals_the_book",
        ),
        source="Howard et al., MobileNets, 2017, section 3.1",
    ),
    "relu6": Topic(
        title="ReLU6: what is negative becomes 0, what is above 6 becomes 6",
        equation="""\
y = min(max(x, 0), 6)

dx = dy where 0 < y < 6, else 0""",
        book=("nstcore.ops.relu6_forward", "nstcore.ops.relu6_backward"),
        engines=(
            "nstcore.engines.operations.activation_named",
            "nstcore.engines.cpu.operations.NativeOperations._convolve",
            "nstcore.engines.cuda.general_conv.conv",
            "nstcore.fast.magenta.MagentaNetwork._same",
        ),
        kernels=(
            "cuda/layers.cuh",
            "cpu/activation.h",
        ),
        tests=(_RIGHT, f"{_LAYERS}::test_activations_keep_nan_and_end_where_they_should"),
        source="Krizhevsky, Convolutional Deep Belief Networks on CIFAR-10, 2010",
    ),
    "global-average": Topic(
        title="global average: one number for each channel",
        equation="""\
y[c] = 1/M sum_{p,q} x[c,p,q]                                M = H W

dx[c,p,q] = dy[c] / M""",
        book=("nstcore.ops.global_average_forward", "nstcore.ops.global_average_backward"),
        engines=(
            "nstcore.engines.cpu.operations.NativeOperations.global_average",
            "nstcore.engines.cuda.instance_norm.Normalizer.means",
            "nstcore.fast.magenta.MagentaNetwork._look",
        ),
        kernels=(
            "cuda/instance_norm/01_two_stage.cu",
            "cpu/normalise.c",
        ),
        tests=(_RIGHT, f"{_EQUAL}::test_the_statistics_of_channels_equal_the_book"),
        source="Lin, Chen, Yan, ICLR 2014, section 3.2",
    ),
    "linear": Topic(
        title="fully connected layer: every number from all numbers",
        equation="""\
y[k] = b[k] + sum_c w[k,c] x[c]

dx[c]   = sum_k w[k,c] dy[k]
dw[k,c] = dy[k] x[c]                                         not needed to paint
db[k]   = dy[k]                                              not needed to paint""",
        book=("nstcore.ops.linear_forward", "nstcore.ops.linear_backward", "nstcore.ops.linear_backward_filters"),
        engines=(
            "nstcore.engines.operations.Operations.linear",
            "nstcore.engines.cpu.operations.NativeOperations._convolve",
            "nstcore.engines.cuda.general_conv.conv",
            "nstcore.fast.magenta.MagentaNetwork._normed",
        ),
        kernels=(
            "cuda/conv/03_split_sum.cu",
            "cpu/direct.c",
        ),
        tests=(
            _RIGHT,
            f"{_LAYERS}::test_a_fully_connected_layer_is_the_convolution_of_one_position",
            f"{_EQUAL}::test_a_fully_connected_layer_equals_the_book",
        ),
        source="Rumelhart, Hinton, Williams, Nature 323, 1986",
    ),
    "instance-norm": Topic(
        title="instance normalisation: each channel gets the mean and deviation it is told to have",
        equation="""\
y[c,m] = scale[c] n[c,m] + shift[c]
n = (x - mean) / sigma,   sigma[c] = sqrt(variance[c] + epsilon)          over the channel's M = H W positions

dscale[c] = sum_m dy[c,m] n[c,m]
dshift[c] = sum_m dy[c,m]
dx[c,m]   = scale[c]/sigma[c] (dy[c,m] - dshift[c]/M - n[c,m] dscale[c]/M)""",
        book=("nstcore.ops.instance_norm_forward", "nstcore.ops.instance_norm_backward"),
        engines=(
            "nstcore.engines.cpu.operations.NativeOperations.instance_norm",
            "nstcore.engines.cpu.operations.NativeOperations.statistics",
            "nstcore.engines.cuda.instance_norm.Normalizer.normalize",
            "nstcore.engines.cuda.instance_norm.Normalizer.statistics",
            "nstcore.fast.magenta.MagentaNetwork._normed",
            "nstcore.fast.adain.AdainNetwork._paint",
        ),
        kernels=(
            "cuda/instance_norm/01_two_stage.cu",
            "cpu/normalise.c",
        ),
        tests=(
            _RIGHT,
            f"{_LAYERS}::test_a_normalised_channel_has_the_mean_and_the_deviation_it_is_told_to_have",
            f"{_LAYERS}::test_scaled_and_shifted_as_another_picture_it_is_adain",
            f"{_EQUAL}::test_instance_normalisation_equals_the_book",
        ),
        source="Ulyanov, Vedaldi, Lempitsky, 2016; Dumoulin, Shlens, Kudlur, ICLR 2017; Huang, Belongie, ICCV 2017",
    ),
    "resize": Topic(
        title="resizing: nearest and bilinear",
        equation="""\
nearest:   y[c,p,q] = x[c,floor(p H / P),floor(q W / Q)]     from (H, W) to (P, Q)
bilinear:  y[c,p,q] = sum_{i,j} r_p[i] s_q[j] x[c,i,j]       r_p[i] = 1 - t, r_p[i+1] = t, else 0
           i + t = (p + 1/2) H/P - 1/2, moved into [0, H-1]  s_q the same of q, W, Q

dx = dy brought back by the same weights: the adjoint""",
        book=(
            "nstcore.ops.resize_nearest_forward",
            "nstcore.ops.resize_nearest_backward",
            "nstcore.ops.resize_bilinear_forward",
            "nstcore.ops.resize_bilinear_backward",
        ),
        engines=(
            "nstcore.engines.cpu.operations.NativeOperations.resize_nearest",
            "nstcore.engines.cpu.operations.NativeOperations.resize_bilinear",
            "nstcore.engines.cuda.resize.nearest",
            "nstcore.engines.cuda.resize.bilinear",
            "nstcore.engines.cuda.general_conv.conv",
            "nstcore.fast.magenta.MagentaNetwork._paint",
        ),
        kernels=(
            "cuda/resize/01_direct.cu",
            "cpu/resize.c",
            "cpu/direct.h",
        ),
        tests=(
            _RIGHT,
            f"{_LAYERS}::test_a_small_picture_is_resized_as_by_hand",
            f"{_LAYERS}::test_bilinear_resizing_is_exact_for_a_plane_away_from_the_edges",
            f"{_EQUAL}::test_resizing_equals_the_book",
        ),
        source="Odena, Dumoulin, Olah, Distill, 2016 (enlarge, then convolve)",
    ),
    "sigmoid": Topic(
        title="sigmoid: any number to one between 0 and 1",
        equation="""\
y = 1 / (1 + exp(-x))

dx = dy y (1 - y)""",
        book=("nstcore.ops.sigmoid_forward", "nstcore.ops.sigmoid_backward"),
        engines=(
            "nstcore.engines.operations.activation_named",
            "nstcore.engines.cpu.operations.NativeOperations._convolve",
            "nstcore.engines.cuda.general_conv.conv",
            "nstcore.engines.cuda.instance_norm.Normalizer.normalize",
            "nstcore.fast.magenta.MagentaNetwork._paint",
        ),
        kernels=(
            "cuda/layers.cuh",
            "cpu/activation.h",
        ),
        tests=(
            _RIGHT,
            f"{_LAYERS}::test_the_sigmoid_is_its_definition_for_every_x",
            f"{_EQUAL}::test_every_activation_equals_the_book",
        ),
        source="Rumelhart, Hinton, Williams, Nature 323, 1986",
    ),
}
