"""The network: from pixels to features, and back."""

from __future__ import annotations

from .topic import Topic

_RIGHT = "tests/test_ops.py::test_every_backward_is_the_gradient_of_its_forward"
_EQUAL = "tests/test_engines.py::test_an_engine_equals_the_book"

NETWORK = {
    "preprocess": Topic(
        title="pre-processing: the picture as the network wants it",
        equation="""\
x[c] = (range * pixels[order[c]] - mean[c]) / std[c]

dpixels[order[c]] = range * dx[c] / std[c]""",
        book=("nstcore.ops.preprocess_forward", "nstcore.ops.preprocess_backward"),
        engines=(
            "nstcore.engines.cpu.network.NumpyNetwork.forward",
            "nstcore.engines.cpu.native.NativeNetwork.forward",
            "nstcore.engines.cuda.pixels.prepare",
            "nstcore.engines.cuda.pixels.backward",
        ),
        kernels=("cuda/pixels/01_direct.cu", "cuda/features/01_tile.cu", "cpu/first.c", "cpu/layout.c"),
        tests=(
            _RIGHT,
            "tests/test_ops.py::test_average_pooling_and_preprocessing_are_adjoint_to_their_backward",
            "tests/test_cuda_pixels.py::test_the_prepared_picture_is_the_books_to_the_last_bit",
            "tests/test_cuda_pixels.py::test_the_gradient_at_the_pixels_is_the_books",
        ),
        source="Simonyan, Zisserman, ICLR 2015, section 2.1 (the mean); the rest is each weights file's own",
    ),
    "conv": Topic(
        title="convolution: filters that slide over the picture and answer where they find their pattern",
        equation="""\
y[k,p,q] = b[k] + sum_{c,r,s} w[k,c,r,s] xp[c,t*p+r,t*q+s]   r < R, s < S, stride t; VGG: R = S = 3, t = 1

dxp[c,i,j]  = sum_{k,r,s} w[k,c,r,s] dy[k,(i-r)/t,(j-s)/t]   where t divides both; dy is 0 outside
dx          = dxp without its border; what copied a position of x, replicated or mirrored, is added to it
dw[k,c,r,s] = sum_{p,q} dy[k,p,q] xp[c,t*p+r,t*q+s]          not needed to paint: w and b are fixed""",
        book=(
            "nstcore.ops.conv_forward",
            "nstcore.ops.conv_backward",
            "nstcore.ops.conv_backward_filters",
            "nstcore.ops.conv.pad",
            "nstcore.ops.conv.unpad",
            "nstcore.ops.conv.same_amounts",
        ),
        engines=(
            "nstcore.engines.cpu.layers.first_conv_forward",
            "nstcore.engines.cpu.layers.first_conv_backward",
            "nstcore.engines.cpu.layers.add_replicated_border",
            "nstcore.engines.cpu.winograd.WinogradConv",
            "nstcore.engines.cpu.native.NativeNetwork._conv_forward",
            "nstcore.engines.cpu.native.NativeNetwork._step_backward",
            "nstcore.engines.cpu.operations.NativeOperations._convolve",
            "nstcore.engines.cuda.conv.Convolution",
            "nstcore.engines.cuda.general_conv.conv",
            "nstcore.engines.cuda.general_conv.best",
        ),
        kernels=(
            "cuda/conv3x3/01_naive.cu",
            "cuda/conv3x3/02_shared_tile.cu",
            "cuda/conv3x3/03_register_tile.cu",
            "cuda/conv3x3/04_winograd.cu",
            "cuda/conv3x3/05_tensor_core_tf32.cu",
            "cuda/conv3x3/06_tensor_core_16bit.cu",
            "cuda/conv3x3/07_wgmma.cu",
            "cuda/conv3x3/08_split_sum.cu",
            "cuda/conv3x3/09_halo_tile.cu",
            "cuda/conv3x3/10_pooled.cu",
            "cuda/conv3x3/11_tma_wgmma.cu",
            "cuda/conv3x3/12_halo_pooled.cu",
            "cuda/border/01_replicate.cu",
            "cuda/conv/01_naive.cu",
            "cuda/conv/02_register_tile.cu",
            "cuda/conv/03_split_sum.cu",
            "cpu/winograd.c",
            "cpu/first.c",
            "cpu/border.c",
            "cpu/direct.c",
            "cpu/patch.c",
        ),
        tests=(
            _RIGHT,
            "tests/test_ops_layers.py::test_a_convolution_equals_its_sum_term_by_term",
            "tests/test_ops.py::test_convolution_and_its_backward_are_adjoint",
            "tests/test_native.py::test_a_convolution_equals_the_book",
            "tests/test_cuda_conv.py::test_forward_agrees_with_the_book_at_either_border",
            "tests/test_cuda_conv.py::test_backward_agrees_with_the_book",
            "tests/test_cuda_border.py::test_the_rim_collects_what_lay_outside",
        ),
        source="Dumoulin, Visin, A guide to convolution arithmetic for deep learning, 2016, section 4",
    ),
    "bias": Topic(
        title="bias: one number for each filter, added everywhere",
        equation="""\
y[k,p,q] = x[k,p,q] + b[k]

dx = dy
db[k] = sum_{p,q} dy[k,p,q]                                  not needed to paint""",
        book=("nstcore.ops.bias_forward", "nstcore.ops.bias_backward"),
        engines=("nstcore.engines.cpu.winograd.WinogradConv.__call__", "nstcore.engines.cuda.conv.Convolution.forward"),
        kernels=("cuda/conv3x3.cuh", "cpu/winograd.c", "cpu/first.c"),
        tests=(_RIGHT, _EQUAL),
        source="Simonyan, Zisserman, ICLR 2015",
    ),
    "relu": Topic(
        title="ReLU: what is negative becomes 0",
        equation="""\
y = max(x, 0)

dx = dy where y > 0, else 0""",
        book=("nstcore.ops.relu_forward", "nstcore.ops.relu_backward"),
        engines=(
            "nstcore.engines.cpu.layers.relu_forward",
            "nstcore.engines.cpu.layers.relu_backward",
            "nstcore.engines.cuda.conv.Convolution",
            "nstcore.engines.gates.GatedNetwork",
        ),
        kernels=("cuda/conv3x3.cuh", "cuda/gates/01_direct.cu", "cpu/winograd.c", "cpu/gates.c"),
        tests=(
            _RIGHT,
            "tests/test_ops.py::test_relu_keeps_nan_so_that_it_is_noticed",
            "tests/test_gates.py::test_the_gradient_from_gates_is_that_from_features",
            "tests/test_cuda_gates.py::test_the_gradient_from_gates_is_that_from_features",
            "tests/test_engines.py::test_decisions_of_an_engine_are_the_books_but_for_near_ties",
        ),
        source="Nair, Hinton, ICML 2010",
    ),
    "pool": Topic(
        title="pooling: maximum, mean or L2 norm of 2x2 windows",
        equation="""\
max:      y = max_i x_i                  dx_i = dy if i is the first largest, else 0
average:  y = 1/4 sum_i x_i              dx_i = dy / 4
l2:       y = sqrt(sum_i x_i^2)          dx_i = dy x_i / y,  0 where y = 0

i = 0..3 are the values of one window; an odd last row or column belongs to none""",
        book=(
            "nstcore.ops.pool_forward",
            "nstcore.ops.pool_backward",
            "nstcore.ops.max_pool_forward",
            "nstcore.ops.max_pool_backward",
            "nstcore.ops.average_pool_forward",
            "nstcore.ops.average_pool_backward",
            "nstcore.ops.l2_pool_forward",
            "nstcore.ops.l2_pool_backward",
        ),
        engines=(
            "nstcore.engines.cpu.layers.pool_forward",
            "nstcore.engines.cpu.layers.pool_backward",
            "nstcore.engines.cpu.operations.NativeOperations.max_pool",
            "nstcore.engines.cuda.pool.forward",
            "nstcore.engines.cuda.pool.backward",
            "nstcore.engines.cuda.resize.maxima",
        ),
        kernels=(
            "cuda/pool/01_naive.cu",
            "cuda/pool/02_vector.cu",
            "cuda/pool/03_choices.cu",
            "cuda/maxima/01_direct.cu",
            "cpu/winograd.c",
            "cpu/taps.c",
            "cpu/resize.c",
        ),
        tests=(
            _RIGHT,
            "tests/test_ops.py::test_of_equal_values_max_pooling_chooses_the_first",
            "tests/test_ops.py::test_an_odd_last_row_and_column_get_no_gradient",
            "tests/test_ops.py::test_l2_pooling_of_zeros_has_gradient_zero",
            "tests/test_cuda_pool.py::test_the_backward_pass_is_the_books_and_writes_everything",
        ),
        source="Gatys, Ecker, Bethge, CVPR 2016, section 2 (average in place of maximum)",
    ),
}
