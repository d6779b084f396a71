"""How the pixels move, and the trick that makes convolutions cheap."""

from __future__ import annotations

from .topic import Topic

OPTIMIZERS = {
    "adam": Topic(
        title="Adam: steps scaled by running averages of the gradient",
        equation="""\
m = beta1 m + (1 - beta1) g                                  g: gradient at x
v = beta2 v + (1 - beta2) g^2
m_hat = m / (1 - beta1^t)                                    t = 1, 2, ...: means that begin at 0
v_hat = v / (1 - beta2^t)
x = x - learning_rate m_hat / (sqrt(v_hat) + epsilon)
x = min(max(x, lo), hi)""",
        book=("nstcore.optim.adam.minimize_adam", "nstcore.optim.vectors.Vectors.adam"),
        engines=("nstcore.engines.cpu.vectors.NativeVectors.adam", "nstcore.engines.cuda.vectors.CudaVectors.adam"),
        kernels=("cuda/vectors/01_elementwise.cu", "cpu/vectors.c"),
        tests=(
            "tests/test_optim_adam.py::test_every_iterate_is_that_of_the_papers_algorithm",
            "tests/test_native_vectors.py::test_adam_makes_the_same_steps",
            "tests/test_cuda_vectors.py::test_adam_takes_the_same_path",
        ),
        source="Kingma, Ba, ICLR 2015, algorithm 1",
    ),
    "lbfgs": Topic(
        title="L-BFGS: directions that know the curvature",
        equation="""\
s = x_{k+1} - x_k,   y = g_{k+1} - g_k,   rho = 1 / (y's)    of every step, the newest kept
H_{k+1} = (I - rho s y') H_k (I - rho y s') + rho s s',   H_0 = gamma I,   gamma = 2 (s'y) / (y'y)

H q:  newest pair first:  alpha_i = rho_i s_i'q,   q = q - alpha_i y_i
      q = gamma q
      oldest pair first:  beta = rho_i y_i'q,      q = q + (alpha_i - beta) s_i

d = -H g,   x = x + alpha d                                  alpha by the line search""",
        book=(
            "nstcore.optim.pairs.Pairs.multiply",
            "nstcore.optim.pairs.Pairs.add",
            "nstcore.optim.lbfgs.minimize_lbfgs",
        ),
        engines=(
            "nstcore.engines.cpu.vectors.NativeVectors.pair_products",
            "nstcore.engines.cpu.vectors.NativeVectors.combine",
            "nstcore.engines.cuda.vectors.CudaVectors.pair_products",
            "nstcore.engines.cuda.vectors.CudaVectors.combine",
        ),
        kernels=("cuda/vectors/02_fused.cu", "cuda/vectors/03_pairs.cu", "cpu/pairs.c", "cpu/vectors.c"),
        tests=(
            "tests/test_optim_pairs.py::test_the_two_loop_recursion_is_the_product_with_the_dense_bfgs_inverse",
            "tests/test_optim_lbfgs.py::test_rosenbrock_converges_with_strong_wolfe_at_every_step",
            "tests/test_optim_lbfgs.py::test_a_bounded_quadratic_ends_where_scipys_does",
            "tests/test_native_vectors.py::test_lbfgs_reaches_the_same_minimum",
            "tests/test_cuda_vectors.py::test_lbfgs_takes_the_same_path_and_reaches_the_same_minimum",
        ),
        source="Nocedal, Wright, Numerical Optimization, 2nd ed., 2006, algorithms 7.4 and 7.5, equations 7.16, 7.20",
    ),
    "line-search": Topic(
        title="line search: how far along the direction",
        equation="""\
phi(alpha) = f(x + alpha d),   phi'(alpha) = gradient(x + alpha d)'d

phi(alpha)    <= phi(0) + c1 alpha phi'(0)                   sufficient decrease (Armijo)
|phi'(alpha)| <= c2 |phi'(0)|                                curvature; together: strong Wolfe

next alpha between a and b, by the cubic through both values and slopes:
d1 = phi'(a) + phi'(b) - 3 (phi(a) - phi(b)) / (a - b)
d2 = sign(b - a) sqrt(d1^2 - phi'(a) phi'(b))
alpha = b - (b - a) (phi'(b) + d2 - d1) / (phi'(b) - phi'(a) + 2 d2)""",
        book=("nstcore.optim.line_search.strong_wolfe", "nstcore.optim.line_search._interpolate"),
        engines=("nstcore.engines.cpu.vectors.NativeVectors.step", "nstcore.engines.cuda.vectors.CudaVectors.step"),
        kernels=("cuda/vectors/01_elementwise.cu", "cpu/vectors.c"),
        tests=(
            "tests/test_optim_line_search.py::test_the_functions_of_more_and_thuente_end_in_strong_wolfe_points",
            "tests/test_optim_line_search.py::test_the_cubic_finds_the_minimum_of_a_cubic_at_once",
            "tests/test_optim_lbfgs.py::test_rosenbrock_converges_with_strong_wolfe_at_every_step",
        ),
        source="Nocedal, Wright, Numerical Optimization, 2nd ed., 2006, algorithms 3.5 and 3.6, equation 3.59",
    ),
    "winograd": Topic(
        title="Winograd: the same convolution with a quarter of the multiplications",
        equation="""\
Y = A^T [ sum_c (G g G^T) * (B^T d B) ] A                    * element by element; sum over input channels c

F(4x4, 3x3): d 6x6 inputs, g a 3x3 filter, Y 4x4 outputs; 36 multiplications instead of 144
backward: the same, with filters turned by 180 degrees and C, K exchanged""",
        book=("nstcore.ops.conv_forward", "nstcore.ops.conv_backward"),
        engines=(
            "nstcore.engines.cpu.winograd.BT",
            "nstcore.engines.cpu.winograd.G",
            "nstcore.engines.cpu.winograd.AT",
            "nstcore.engines.cpu.winograd.transform_filters",
            "nstcore.engines.cpu.winograd.rotate_filters",
            "nstcore.engines.cpu.winograd.WinogradConv",
        ),
        kernels=("cuda/conv3x3/04_winograd.cu", "cpu/winograd.c", "cpu/transforms.h", "cpu/filters.c", "cpu/gemm.c"),
        tests=(
            "tests/test_engines.py::test_winograd_equals_the_direct_convolution",
            "tests/test_engines.py::test_winograd_backward_is_the_forward_with_turned_filters",
            "tests/test_engines.py::test_winograd_needs_a_quarter_of_the_multiplications",
            "tests/test_cuda_conv.py::test_winograd_multiplies_four_times_for_an_output_and_the_others_nine",
        ),
        source="Lavin, Gray, CVPR 2016, section 4.3",
    ),
}
