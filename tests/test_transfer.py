"""The whole way: two pictures in, a third out."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import smooth_picture

import nstcore
from nstcore import images, transfer
from nstcore.errors import LayerError, OptionError, PictureError, ShapeError
from nstcore.transfer import FailedRun

CONTENT = (smooth_picture(40, 60, 1) * 255).astype(np.uint8)
STYLE = (smooth_picture(50, 45, 2) * 255).astype(np.uint8)
SMALL = {"size": 48, "iterations": 4, "style_layers": ("relu1_1", "relu2_1"), "content_layers": ("relu2_2",)}


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_loss_falls_and_the_picture_has_the_asked_size(random_vgg19, optimizer):
    options = SMALL | {"iterations": 12}
    result = nstcore.stylize(CONTENT, STYLE, weights=random_vgg19, optimizer=optimizer, **options)
    assert result.image.shape == (32, 48, 3)
    assert result.terms.total < 0.8 * result.losses[0].total
    assert len(result.losses) <= 13
    assert 0 <= result.pixels.min() <= result.pixels.max() <= 1


def test_the_result_is_the_best_that_was_evaluated(random_vgg19):
    result = nstcore.stylize(CONTENT, STYLE, weights=random_vgg19, learning_rate=0.3, average=0, **SMALL)
    assert result.terms.total == min(t.total for t in result.losses)
    terms, _ = nstcore.Objective(
        random_vgg19,
        images.resize_pixels(images.as_pixels(CONTENT), (32, 48)).transpose(1, 2, 0),
        images.resize_pixels(images.as_pixels(STYLE), (48, 43)).transpose(1, 2, 0),
        style_layers=SMALL["style_layers"],
        content_layers=SMALL["content_layers"],
    )(result.pixels)
    assert terms.total == pytest.approx(result.terms.total, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_same_seed_options_and_threads_give_the_same_file(random_vgg19, tmp_path, optimizer):
    for name in ("a.png", "b.png"):
        options = {"init": "noise", "seed": 5, "threads": 2, "optimizer": optimizer, **SMALL}
        nstcore.stylize(CONTENT, STYLE, weights=random_vgg19, **options).save(tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_another_seed_gives_another_noise(random_vgg19):
    first, second = (
        nstcore.stylize(CONTENT, STYLE, weights=random_vgg19, init="noise", seed=seed, **SMALL) for seed in (1, 2)
    )
    assert (first.image != second.image).any()


@pytest.mark.parametrize("init", ["content", "noise", "style", "gray", "file"])
def test_every_initialisation_paints(random_vgg19, tmp_path, init):
    if init == "file":
        init = tmp_path / "start.png"
        images.write_picture(init, images.as_pixels(STYLE))
    result = nstcore.stylize(CONTENT, STYLE, weights=random_vgg19, init=init, **SMALL)
    assert result.terms.total < result.losses[0].total


def test_size_content_keeps_the_contents_size(random_vgg19):
    result = nstcore.stylize(CONTENT, STYLE, weights=random_vgg19, **SMALL | {"size": "content"})
    assert result.image.shape == CONTENT.shape
    assert "array(" not in repr(result)


def test_the_metadata_says_how_to_make_it_again(random_vgg19, tmp_path):
    images.write_picture(tmp_path / "content.png", images.as_pixels(CONTENT))
    result = nstcore.stylize(tmp_path / "content.png", STYLE, weights=random_vgg19, seed=3, tv_weight=0.25, **SMALL)
    result.save(tmp_path / "out.png")
    found = images.read_metadata(tmp_path / "out.png")
    assert found["settings"]["seed"] == 3
    assert found["settings"]["tv_weight"] == 0.25
    assert found["settings"]["style_layers"] == {"relu1_1": 1.0, "relu2_1": 1.0}
    assert found["settings"]["size"] == 48
    assert found["content"]["file"] == str(tmp_path / "content.png")
    assert found["sizes"] == [{"height": 32, "width": 48, "iterations": 4, "blocks": []}]
    assert len(found["content"]["sha256"]) == 64
    assert found["weights"]["sha256"] == random_vgg19.sha256
    assert found["versions"]["nstcore"] == nstcore.__version__
    assert found["losses"]["end"]["total"] == result.terms.total


def test_every_evaluation_is_reported(random_vgg19):
    seen = []
    nstcore.stylize(CONTENT, STYLE, weights=random_vgg19, on_step=seen.append, **SMALL)
    assert [s.iteration for s in seen] == [0, 1, 2, 3, 4]
    assert all((s.iterations, s.size) == (4, 48) for s in seen)
    assert [s.share for s in seen] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert seen[-1].pixels().shape == (3, 32, 48)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_an_interrupt_keeps_the_best_picture(random_vgg19, optimizer):
    def interrupt(step):
        if step.iteration == 2:
            raise KeyboardInterrupt

    options = SMALL | {"iterations": 50, "optimizer": optimizer}
    result = nstcore.stylize(CONTENT, STYLE, weights=random_vgg19, on_step=interrupt, **options)
    assert result.interrupted
    assert len(result.losses) == 3
    assert result.terms.total <= min(t.total for t in result.losses)  # the average may be lower


def test_a_run_that_breaks_off_keeps_the_best_picture(random_vgg19, monkeypatch):
    evaluate = nstcore.Objective.__call__

    def fail_later(self, pixels):
        terms, gradient = evaluate(self, pixels)
        self.calls = getattr(self, "calls", 0) + 1
        return (terms if self.calls < 3 else nstcore.Terms(float("nan"), 0.0, 0.0, 0.0)), gradient

    monkeypatch.setattr(nstcore.Objective, "__call__", fail_later)
    with pytest.raises(FailedRun, match="nan") as caught:
        nstcore.stylize(CONTENT, STYLE, weights=random_vgg19, **SMALL)
    assert caught.value.exit_code == 1
    assert np.isfinite(caught.value.result.terms.total)


def test_a_run_without_memory_keeps_the_best_picture(random_vgg19):
    def fail(step):
        if step.iteration == 1:
            raise MemoryError

    with pytest.raises(FailedRun, match="smaller size") as caught:
        nstcore.stylize(CONTENT, STYLE, weights=random_vgg19, on_step=fail, **SMALL)
    assert caught.value.result.image.shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"optimizer": "sgd"}, OptionError),
        ({"iterations": 0}, OptionError),
        ({"iterations": 1.5}, OptionError),
        ({"iterations": "5"}, OptionError),
        ({"seed": 1.5}, OptionError),
        ({"content_layers": "relu4_2"}, OptionError),
        ({"size": 0}, OptionError),
        ({"size": 15}, ShapeError),
        ({"size": "large"}, OptionError),
        ({"init": "blue"}, OptionError),
        ({"init": "missing.png"}, PictureError),
        ({"learning_rate": -1.0}, OptionError),
        ({"style_layers": ("relu7_1",)}, LayerError),
        ({"threads": 0}, OptionError),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(random_vgg19, options, kind):
    with pytest.raises(kind) as caught:
        nstcore.stylize(CONTENT, STYLE, weights=random_vgg19, **SMALL | options)
    assert "\n" not in str(caught.value)


def test_without_a_style_nothing_is_painted(random_vgg19):
    with pytest.raises(OptionError, match="at least one"):
        nstcore.stylize(CONTENT, [], weights=random_vgg19, **SMALL)


GOLDEN = {
    "adam": [
        6.00166169,
        4.28691239,
        3.18817444,
        2.45995181,
        2.01954308,
        1.80796428,
        1.71367184,
        1.64197941,
        1.56160064,
        1.47976482,
        1.39398633,
    ],
    "lbfgs": [
        6.00166169,
        5.66872216,
        4.0333202,
        1.83451421,
        1.40318567,
        0.975337415,
        0.860180723,
        0.750925692,
        0.722431698,
        0.662786393,
        0.633114932,
    ],
}


def test_golden_losses_of_a_fixed_small_network():
    """Ten steps of both optimizers, first computed with the book in float64; what changes them changes pictures."""
    from conftest import random_weights

    weights = random_weights(deepest="conv2_1", seed=11)
    layers = {"style_layers": ("relu1_1", "relu2_1"), "content_layers": ("relu1_2",)}
    content, style = smooth_picture(24, 20, 21), smooth_picture(20, 24, 22)
    for optimizer, golden in GOLDEN.items():
        options = {"size": 24, "iterations": 10, "dtype": "float64", "optimizer": optimizer, **layers}
        result = transfer.stylize(content, style, weights=weights, **options)
        assert [t.total for t in result.losses] == pytest.approx(golden, rel=1e-6)


@pytest.mark.parametrize("function", [nstcore.stylize, transfer.estimate])
@pytest.mark.parametrize(
    ("keyword", "hint"),
    [("iteration", "did you mean 'iterations'"), ("style_layer", "did you mean 'style_layers'"), ("x", "docstring")],
)
def test_an_option_that_there_is_not_is_named_with_the_nearest_one(function, keyword, hint):
    name = function.__name__
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument '{keyword}'; .*{hint}"):
        function(CONTENT, STYLE, weights="nowhere.h5", **{keyword: 3})


def test_on_a_small_rung_a_small_style_stays_as_large_as_the_layers_read(narrow):
    weights = narrow()
    deep = {"content_layers": ("relu2_2",), "style_layers": ("pool5",), "size": 80, "ladder": 40}
    seen = []
    nstcore.stylize(
        CONTENT,
        STYLE,
        weights=weights,
        style_scale=0.5,
        iterations=2,
        on_start=lambda objective, rungs: seen.append([rung.size for rung in rungs]),
        **deep,
    )
    assert seen == [[(38, 57), (53, 80)]]
    with pytest.raises(OptionError, match=r"style_size: expected at least 32 pixels a side .*, got 20, which is 18x20"):
        nstcore.stylize(CONTENT, STYLE, weights=weights, style_size=20, **deep)
