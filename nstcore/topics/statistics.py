"""What features tell of a style, once positions are forgotten."""

from __future__ import annotations

from .topic import Topic

_STYLE = "tests/test_ops_style.py"
_RIGHT = f"{_STYLE}::test_a_loss_of_statistics_reaches_the_features_with_the_right_gradient"

STATISTICS = {
    "gram": Topic(
        title="Gram matrix: which filters answer together",
        equation="""\
G = F F^T,   G[i,j] = sum_m F[i,m] F[j,m]                    F (N, M), G (N, N)

dF = (dG + dG^T) F""",
        book=("nstcore.ops.gram_forward", "nstcore.ops.gram_backward"),
        engines=(
            "nstcore.engines.cpu.statistics.gram",
            "nstcore.engines.cpu.native.NativeNetwork.gram",
            "nstcore.engines.cuda.gram.Grams",
            "nstcore.engines.cuda.gram.gram_backward",
        ),
        kernels=(
            "cuda/gram/01_naive.cu",
            "cuda/gram/02_shared_tile.cu",
            "cuda/gram/03_tensor_core.cu",
            "cpu/gram.c",
            "cpu/taps.c",
        ),
        tests=(
            "tests/test_ops.py::test_every_backward_is_the_gradient_of_its_forward",
            "tests/test_ops.py::test_gram_is_symmetric_positive_and_blind_to_position",
            "tests/test_native.py::test_a_gram_matrix_equals_the_book_and_is_symmetric",
            "tests/test_cuda_gram.py::test_the_gram_matrix_is_the_books_and_exactly_symmetric",
            "tests/test_cuda_gram.py::test_the_gradient_is_the_books",
        ),
        source="Gatys, Ecker, Bethge, CVPR 2016, equation 3",
    ),
    "moments": Topic(
        title="moments: sums over the positions, as much as a mask lets each count",
        equation="""\
G = sum_m w[m] F[:,m] F[:,m]^T                               F (N, M), w (M,), G (N, N)
s = sum_m w[m] F[:,m]                                        s (N,)

dF[:,m] = w[m] ((dG + dG^T) F[:,m] + ds)""",
        book=("nstcore.ops.moments_forward", "nstcore.ops.moments_backward"),
        engines=(
            "nstcore.engines.cpu.statistics.sums",
            "nstcore.engines.cpu.statistics.moments_backward",
            "nstcore.engines.cpu.native.NativeNetwork.sums",
            "nstcore.engines.cuda.moments.Moments",
        ),
        kernels=("cuda/moments/01_two_stage.cu", "cpu/reduce.c", "cpu/taps.c"),
        tests=(
            _RIGHT,
            "tests/test_ops_style.py::test_moments_are_the_gram_matrix_of_what_the_guide_leaves",
            "tests/test_ops_style.py::test_moments_and_their_backward_are_adjoint",
            "tests/test_native.py::test_statistics_and_gradients_under_a_guide_equal_the_book",
            "tests/test_cuda_moments.py::test_the_gradient_is_the_books",
        ),
        source="Gatys, Ecker, Bethge, Hertzmann, Shechtman, CVPR 2017, section 4 (guided Gram matrices; w = T^2)",
    ),
    "covariance": Topic(
        title="covariance: the Gram matrix without the mean",
        equation="""\
C = E - mu mu^T                                              E = G / M, mu = s / M

dE = dC
dmu = -(dC + dC^T) mu""",
        book=("nstcore.ops.covariance_forward", "nstcore.ops.covariance_backward"),
        engines=(),
        kernels=(),
        tests=(_RIGHT, "tests/test_ops_style.py::test_a_covariance_is_the_gram_matrix_of_the_centred_features"),
        source="Li, Wang, Liu, Hou, IJCAI 2017",
    ),
    "matrix-sqrt": Topic(
        title="matrix square root: S with S S = C",
        equation="""\
C = U diag(lambda) U^T,   S = U diag(root) U^T,   root = sqrt(lambda)

dC = U [ (U^T dS U)[i,j] / (root[i] + root[j]) ] U^T         which solves S dC + dC S = dS""",
        book=("nstcore.ops.matrix_sqrt_forward", "nstcore.ops.matrix_sqrt_backward"),
        engines=(),
        kernels=(),
        tests=(
            "tests/test_ops_style.py::test_a_matrix_square_root_squares_to_the_matrix",
            f"{_STYLE}::test_the_gradient_of_a_matrix_square_root_solves_the_lyapunov_equation_and_is_its_own_adjoint",
            "tests/test_ops_style.py::test_where_a_matrix_square_root_has_no_derivative_the_gradient_is_zero",
        ),
        source="Higham, Functions of Matrices, SIAM 2008, section 6.1",
    ),
}
