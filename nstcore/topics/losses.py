"""The terms of the loss, and their sum."""

from __future__ import annotations

from .topic import Topic

_RIGHT = "tests/test_ops.py::test_every_backward_is_the_gradient_of_its_forward"
_STYLES = "tests/test_ops_style.py::test_a_loss_of_statistics_reaches_the_features_with_the_right_gradient"

LOSSES = {
    "content": Topic(
        title="content loss: how far the features are from the photograph's",
        equation="""\
L = scale * sum_m w[m] sum_i (F[i,m] - P[i,m])^2             F, P (N, M); w (M,), 1 without a mask

dF = 2 scale w (F - P)""",
        book=("nstcore.ops.content_forward", "nstcore.ops.content_backward"),
        engines=(
            "nstcore.engines.cpu.statistics.squared_distance",
            "nstcore.engines.cpu.statistics.content_backward",
            "nstcore.engines.cpu.native.NativeNetwork.squared_distance",
            "nstcore.engines.cuda.losses.Losses.squared_distance",
        ),
        kernels=("cuda/content/01_two_stage.cu", "cpu/reduce.c"),
        tests=(
            _RIGHT,
            "tests/test_native.py::test_losses_of_small_arrays_equal_the_book",
            "tests/test_cuda_losses.py::test_squared_distances_and_norms_agree_with_the_book",
        ),
        source="Gatys, Ecker, Bethge, CVPR 2016, equations 1 and 2 (scale = 1/2)",
    ),
    "style": Topic(
        title="style loss: how far the Gram matrices are from the painting's",
        equation="""\
E = scale * sum_{i,j} (G[i,j]/M - A[i,j]/M')^2               G, A (N, N)

dG = 2 scale/M (G/M - A/M')""",
        book=("nstcore.ops.style_forward", "nstcore.ops.style_backward"),
        engines=(
            "nstcore.engines.cpu.CpuEngine.style_term",
            "nstcore.engines.cuda.losses.Losses.style",
            "nstcore.engines.cuda.losses.Losses.pack_style",
        ),
        kernels=("cuda/style/01_two_stage.cu", "cpu/reduce.c"),
        tests=(
            _RIGHT,
            "tests/test_native.py::test_losses_of_small_arrays_equal_the_book",
            "tests/test_cuda_losses.py::test_the_style_loss_and_its_gradient_agree_with_the_book",
        ),
        source="Gatys, Ecker, Bethge, CVPR 2016, equations 4 and 6 (scale = 1/(4 N^2))",
    ),
    "centred": Topic(
        title="centred style loss: how far the covariances are",
        equation="""\
L = scale * sum_{i,j} (C[i,j] - C'[i,j])^2                   C = second - mean mean^T, both per position

dC = 2 scale (C - C')
dsecond = dC
dmean = -(dC + dC^T) mean""",
        book=("nstcore.ops.centred_forward", "nstcore.ops.centred_backward"),
        engines=("nstcore.engines.cuda.losses.Losses.moments_loss",),
        kernels=("cuda/style/01_two_stage.cu",),
        tests=(
            _STYLES,
            "tests/test_objective_style.py::test_the_gradient_is_right_for_every_style_loss",
            "tests/test_cuda_losses.py::test_losses_of_means_and_covariances_agree_with_the_book",
        ),
        source="Li, Wang, Liu, Hou, IJCAI 2017 (matching second moments; here without the mean)",
    ),
    "mean-std": Topic(
        title="mean and deviation: each filter by itself",
        equation="""\
L = scale * ( sum_i (mu[i] - mu'[i])^2 + sum_i (sigma[i] - sigma'[i])^2 )
sigma[i] = sqrt(max(C_ii, 0) + eps),   C_ii = second_ii - mu[i]^2

dC_ii = scale (sigma[i] - sigma'[i]) / sigma[i],   0 where C_ii <= 0
dsecond = diag(dC_ii)
dmu = 2 scale (mu - mu') - 2 dC_ii mu""",
        book=("nstcore.ops.mean_std_forward", "nstcore.ops.mean_std_backward", "nstcore.ops.standard_deviations"),
        engines=("nstcore.engines.cuda.losses.Losses.moments_loss",),
        kernels=("cuda/style/01_two_stage.cu",),
        tests=(
            _STYLES,
            "tests/test_ops_style.py::test_features_that_do_not_vary_have_a_finite_gradient",
            "tests/test_objective_style.py::test_the_gradient_is_right_for_every_style_loss",
            "tests/test_cuda_losses.py::test_losses_of_means_and_covariances_agree_with_the_book",
        ),
        source="Li, Wang, Liu, Hou, IJCAI 2017; Huang, Belongie, ICCV 2017, equation 13",
    ),
    "w2": Topic(
        title="W2: the Wasserstein-2 distance of two Gaussians",
        equation="""\
L = scale * ( |mu - mu'|^2 + tr( C + C' - 2 (R C R)^(1/2) ) )     R = C'^(1/2), C = second - mu mu^T + eps I

dC = scale * ( I - R (R C R)^(-1/2) R )
dsecond = dC
dmu = 2 scale (mu - mu') - (dC + dC^T) mu""",
        book=("nstcore.ops.w2_forward", "nstcore.ops.w2_backward", "nstcore.ops.w2_target"),
        engines=(),
        kernels=(),
        tests=(
            _STYLES,
            "tests/test_ops_style.py::test_the_wasserstein_distance_is_symmetric",
            "tests/test_ops_style.py::test_the_wasserstein_distance_of_commuting_covariances_compares_standard_deviations",
            "tests/test_objective_style.py::test_the_gradient_is_right_for_every_style_loss",
        ),
        source="Dowson, Landau, J. Multivariate Analysis 12, 1982; as a style loss: crowsonkb/style-transfer-pytorch",
    ),
    "total-variation": Topic(
        title="total variation: how much neighbouring pixels differ",
        equation="""\
TV = scale * ( sum (x[c,p+1,q] - x[c,p,q])^2 + sum (x[c,p,q+1] - x[c,p,q])^2
               + diagonal * ( sum (x[c,p+1,q+1] - x[c,p,q])^2 + sum (x[c,p+1,q] - x[c,p,q+1])^2 ) )

dx[c,p,q] = 2 scale * sum over its neighbours n of weight (x[c,p,q] - x[c,n])""",
        book=("nstcore.ops.total_variation_forward", "nstcore.ops.total_variation_backward"),
        engines=("nstcore.engines.cpu.CpuEngine.total_variation", "nstcore.engines.cuda.losses.Losses.total_variation"),
        kernels=("cuda/total_variation/01_two_stage.cu", "cpu/reduce.c"),
        tests=(
            _RIGHT,
            "tests/test_ops.py::test_total_variation_of_a_constant_is_zero",
            "tests/test_cuda_losses.py::test_total_variation_and_its_gradient_agree_with_the_book",
        ),
        source="Mahendran, Vedaldi, CVPR 2015, section 2, with beta = 2",
    ),
    "block-mean": Topic(
        title="block means: the picture in small, for the pyramid",
        equation="""\
y[c,i,j] = mean of x[c,p,q]  over  k i <= p < min(k (i+1), H),  k j <= q < min(k (j+1), W)

dx[c,p,q] = dy[c, p//k, q//k] / (pixels in that block)""",
        book=("nstcore.ops.block_mean_forward", "nstcore.ops.block_mean_backward"),
        engines=("nstcore.engines.cuda.block_mean.forward", "nstcore.engines.cuda.block_mean.backward"),
        kernels=("cuda/block_mean/01_direct.cu",),
        tests=(
            "tests/test_ops_block_mean.py::test_the_backward_is_the_gradient_of_the_forward",
            "tests/test_ops_block_mean.py::test_the_backward_is_the_adjoint_of_the_forward_for_any_size",
            "tests/test_pyramid.py::test_its_gradient_is_right",
            "tests/test_cuda_block_mean.py::test_the_gradient_is_the_books_added_to_what_was_there",
        ),
        source="no paper's: the mean over a block, and its adjoint",
    ),
    "objective": Topic(
        title="the whole objective: what is minimised",
        equation="""\
L(x) = content_weight * sum_l w_l content_l(F_l, P_l)
       + style_weight * sum_l w_l style_l(G_l, A_l)
       + tv_weight * TV(x)
       + the same of the picture in small, at every level of the pyramid

dx = backward through the network of every layer's dF, the deepest first, + tv_weight * dTV""",
        book=(
            "nstcore.objective.objective.Objective.__call__",
            "nstcore.objective.objective.Objective._at",
            "nstcore.objective.objective.Objective._losses",
            "nstcore.objective.statistics.StyleLoss",
            "nstcore.conventions.CONVENTIONS",
        ),
        engines=(
            "nstcore.engines.reference.ReferenceNetwork",
            "nstcore.engines.cpu.network.NumpyNetwork",
            "nstcore.engines.cpu.native.NativeNetwork",
            "nstcore.engines.cuda.network.CudaNetwork",
        ),
        kernels=(),
        tests=(
            "tests/test_objective.py::test_the_gradient_of_the_whole_objective_is_right",
            "tests/test_objective.py::test_the_gradient_is_right_with_the_imagenet_weights",
            "tests/test_objective.py::test_a_flipped_sign_in_any_backward_is_found",
            "tests/test_objective.py::test_a_convention_is_its_published_formula",
            "tests/test_engines.py::test_an_engine_equals_the_book",
            "tests/test_torch.py::test_loss_and_gradient_are_pytorchs",
        ),
        source="Gatys, Ecker, Bethge, CVPR 2016, equation 7",
    ),
}
