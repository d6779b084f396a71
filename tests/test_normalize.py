"""The papers' normalised network: mean activations of 1, the same function up to one factor a filter, the command."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, random_weights, smooth_picture
from PIL import Image
from weights_files import refused

from nstcore import engines, images, normalize, vgg
from nstcore.commands import normalize as command
from nstcore.commands.run import EXAMPLES
from nstcore.errors import OptionError, OutputError, PictureError, WeightsError
from nstcore.pretrained import Weights, read_weights, storage, write_weights

POOLINGS = ("max", "average", "l2")


@pytest.fixture
def small(monkeypatch) -> Weights:
    """A network of three blocks with few filters, all of which fire: their biases outweigh their weights."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((2, 8), (2, 12), (1, 16)))
    weights = random_weights(deepest="conv3_1")
    quiet, bias = np.float32(0.3), np.float32(1)
    return replace(weights, filters={conv: (w * quiet, b + bias) for conv, (w, b) in weights.filters.items()})


@pytest.fixture
def pictures() -> list[np.ndarray]:
    """Of different sizes, odd ones too."""
    return [smooth_picture(40, 31, 1), smooth_picture(24, 48, 2), smooth_picture(17, 16, 3)]


def relus(weights: Weights) -> list[str]:
    return [conv.replace("conv", "relu") for conv in weights.filters]


def observer(weights: Weights, device: str = "reference", dtype: str = "float64", pooling: str | None = None):
    """A function from pixels (3, H, W) to every ReLU's output (K, H, W)."""
    engine = engines.create(device, dtype)
    network = engine.network(weights, relus(weights), pooling or weights.pooling)

    def features(pixels: np.ndarray) -> dict[str, np.ndarray]:
        network.forward(engine.array(pixels))
        return {relu: network.features(relu) for relu in relus(weights)}

    return features


def mean_activations(features, pictures) -> dict[str, np.ndarray]:
    """Over all positions of all pictures, each position counting once."""
    found = [features(images.as_pixels(picture)) for picture in pictures]
    flat = {relu: np.concatenate([f[relu].reshape(len(f[relu]), -1) for f in found], axis=1) for relu in found[0]}
    return {relu: values.mean(axis=1, dtype=np.float64) for relu, values in flat.items()}


def largest_difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray], scales: dict[str, np.ndarray]) -> float:
    """max |a - scale b|, relative to the largest value of the layer."""
    return max(np.abs(a[r] - b[r] * scales[r][:, None, None]).max() / np.abs(a[r]).max() for r in a)


def kill(weights: Weights, conv: str, k: int) -> Weights:
    """A filter that never fires."""
    w, b = weights.filters[conv]
    b = b.copy()
    b[k] = -1e6
    return replace(weights, filters={**weights.filters, conv: (w, b)})


# ---- the network


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_mean_activation_is_one_over_positions_of_all_pictures(small, pictures, pooling):
    before = replace(small, pooling=pooling)
    result = normalize.normalize(before, iter(pictures), size=48)
    assert not result.dead
    assert result.pictures == 3
    for relu, a in mean_activations(observer(result.weights), pictures).items():
        np.testing.assert_allclose(a, 1, atol=1e-4, err_msg=relu)
    for relu, a in mean_activations(observer(before), pictures).items():
        np.testing.assert_allclose(result.means[relu], a, rtol=1e-4, err_msg=relu)


@pytest.mark.parametrize("padding", ["zero", "replicate"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_function_is_unchanged_up_to_the_scales_on_any_picture(small, pictures, pooling, padding):
    before = kill(replace(small, padding=padding), "conv2_1", 5)
    result = normalize.normalize(before, pictures)
    unseen = smooth_picture(37, 50, 9).transpose(2, 0, 1)
    old, new = (observer(weights, pooling=pooling)(unseen) for weights in (before, result.weights))
    assert largest_difference(old, new, result.scales) < 1e-5


def test_a_vgg19_with_random_filters(pictures):
    before = random_weights(deepest="conv4_1")
    result = normalize.normalize(before, pictures)
    for relu, means in mean_activations(observer(result.weights, "cpu", "float32"), pictures).items():
        live = np.setdiff1d(np.arange(len(means)), result.dead.get(relu, []))
        assert len(live) > 0.9 * len(means)
        np.testing.assert_allclose(means[live], 1, atol=1e-3, err_msg=relu)


def test_the_imagenet_vgg19(vgg19, shared_images):
    unseen = smooth_picture(64, 80).transpose(2, 0, 1)
    old = observer(vgg19, "cpu", "float32")(unseen)
    paths = [EXAMPLES / "content.jpg", *sorted((shared_images / "content").iterdir())[:2]]
    result = normalize.normalize(vgg19, paths, size=128)
    features = observer(result.weights, "cpu", "float32")
    assert largest_difference(old, features(unseen), result.scales) < 1e-4
    pixels = [images.as_pixels(path) for path in paths]
    seen = [images.resize_pixels(p, images.fit(p.shape[1:], 128)).transpose(1, 2, 0) for p in pixels]
    for relu, means in mean_activations(features, seen).items():
        live = np.setdiff1d(np.arange(len(means)), result.dead.get(relu, []))
        assert len(live) > 0.7 * len(means)
        np.testing.assert_allclose(means[live], 1, atol=1e-3, err_msg=relu)


def test_dead_filters_are_reported_and_scaled_as_a_typical_one(small, pictures):
    before = kill(kill(small, "conv1_2", 3), "conv3_1", 0)
    w, b = before.filters["conv2_2"]
    faint = np.ones(len(b), np.float32)
    faint[7] = 1e-7  # fires, but a ten-millionth of what its neighbours do
    before.filters["conv2_2"] = (w * faint[:, None, None, None], b * faint)
    result = normalize.normalize(before, pictures)
    assert {relu: found.tolist() for relu, found in result.dead.items()} == {
        "relu1_2": [3],
        "relu2_2": [7],
        "relu3_1": [0],
    }
    assert result.means["relu1_2"][3] == 0
    typical = np.median(np.delete(result.means["relu1_2"], 3))
    assert result.scales["relu1_2"][3] == typical > 0
    assert result.weights.filters["conv1_2"][1][3] == np.float32(-1e6 / typical)
    assert 0 < result.means["relu2_2"][7] < 1e-5
    for relu, means in mean_activations(observer(result.weights), pictures).items():
        live = np.setdiff1d(np.arange(len(means)), result.dead.get(relu, []))
        np.testing.assert_allclose(means[live], 1, atol=1e-4, err_msg=relu)


def test_a_layer_of_dead_filters_divides_nothing_by_zero(small, pictures):
    before = small
    for k in range(12):
        before = kill(before, "conv2_1", k)
    result = normalize.normalize(before, pictures)
    assert result.dead["relu2_1"].tolist() == list(range(12))
    np.testing.assert_array_equal(result.scales["relu2_1"], 1)
    np.testing.assert_allclose(mean_activations(observer(result.weights), pictures)["relu2_2"].max(), 1, atol=1e-4)


def test_an_engine_in_double_precision_measures_more_closely(small, pictures):
    result = normalize.normalize(small, pictures, engine=engines.create("cpu", "float64"))
    for relu, a in mean_activations(observer(result.weights), pictures).items():
        np.testing.assert_allclose(a, 1, atol=1e-6, err_msg=relu)


def test_normalising_twice_changes_nothing_more(small, pictures):
    once = normalize.normalize(small, pictures).weights
    twice = normalize.normalize(once, pictures)
    assert all(np.allclose(a, 1, atol=1e-5) for a in twice.means.values())
    assert twice.weights.name == once.name == "random-normalized"


def test_preprocessing_and_provenance_are_kept_and_say_what_was_done(small, pictures):
    result = normalize.normalize(small, pictures, size=100)
    after = result.weights
    assert after.preprocessing == small.preprocessing
    assert (after.padding, after.pooling, after.architecture) == (small.padding, small.pooling, small.architecture)
    assert small.provenance.items() <= after.provenance.items()
    assert "over 3 pictures, long side at most 100, max pooling" in after.provenance["normalized"]
    assert small.sha256 in after.provenance["normalized_from"]


def test_the_given_weights_are_left_as_they_are(small, pictures):
    before = small.sha256
    normalize.normalize(small, pictures)
    assert replace(small).sha256 == before


# ---- the pictures


def test_pictures_are_taken_one_at_a_time_and_let_go(small):
    def peak(count: int) -> int:
        """Largest memory while `count` pictures of 0.5 MB go through."""
        given = (smooth_picture(150, 150, seed).astype(np.float32) for seed in range(count))
        tracemalloc.start()
        try:
            assert normalize.normalize(small, given, size=64).pictures == count
            assert next(given, None) is None
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(12) < 1.05 * peak(3)


def test_progress_is_told_after_every_picture(small, pictures):
    told = []
    normalize.normalize(small, pictures, on_picture=told.append)
    assert told == [1, 2, 3]


def test_large_pictures_are_made_smaller_and_small_ones_are_left(small):
    class Watched(type(engines.create())):
        def array(self, a):
            shapes.append(a.shape)
            return super().array(a)

    shapes: list[tuple[int, ...]] = []
    given = [smooth_picture(100, 50), smooth_picture(20, 30), smooth_picture(32, 64)]
    normalize.normalize(small, given, size=40, engine=Watched())
    assert shapes == [(3, 40, 20), (3, 20, 30), (3, 20, 40)]


def test_a_picture_that_cannot_be_used_is_refused_or_passed_over(small, pictures, tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    given = [pictures[0], tmp_path / "damaged.png", smooth_picture(200, 20), pictures[1]]
    assert "damaged.png: " in refused(normalize.normalize, small, given, error=PictureError)
    told: list[str] = []
    result = normalize.normalize(small, given, size=100, on_refused=lambda error: told.append(str(error)))
    assert result.pictures == 2
    assert len(told) == 2
    assert "expected at least 16 pixels a side where the long side is at most 100, got 10x100" in told[1]
    two = normalize.normalize(small, pictures[:2], size=100)
    assert two.weights.sha256 == result.weights.sha256


def test_no_picture_at_all_is_refused(small):
    assert "pictures: expected at least one" in refused(normalize.normalize, small, [], error=PictureError)


def test_a_size_below_the_smallest_is_refused(small, pictures):
    def too_small() -> None:
        normalize.normalize(small, pictures, size=15)

    assert "size: expected at least 16 pixels" in refused(too_small, error=OptionError)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_activations_that_are_not_finite_are_refused(small, pictures):
    w, b = small.filters["conv1_1"]
    small.filters["conv1_1"] = (w, b + np.float32(1e38))
    assert "its activations are not finite" in refused(normalize.normalize, small, pictures)


# ---- the command


@pytest.fixture
def source(small, tmp_path) -> Path:
    """A weights file of the small network."""
    write_weights(tmp_path / "in.h5", small)
    return tmp_path / "in.h5"


@pytest.fixture
def folder(pictures, tmp_path) -> Path:
    """Two pictures, one of them in a subfolder; a damaged one, and files that are none."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name, picture in (("a.png", pictures[0]), ("below/b.TIFF", pictures[1])):
        Image.fromarray(images.to_uint8(picture.transpose(2, 0, 1))).save(folder / name)
    (folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing follows")
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_text("not seen")
    return folder


def run(*arguments: object) -> int:
    """`python -m nstcore weights normalize ...`, in this process."""
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["normalize", *map(str, arguments)])
    return args.run(args)


def test_the_command_measures_a_folder_and_says_what_it_found(source, folder, small, tmp_path, capsys):
    before = kill(small, "conv2_1", 4)
    write_weights(source, before)
    output = tmp_path / "out.h5"
    assert run(source, "--images", folder, "-o", output, "--size", 40, "--threads", 1) == 0
    out, err = capsys.readouterr()
    after = read_weights(output)
    expected = normalize.normalize(before, [folder / "a.png", folder / "below" / "b.TIFF"], size=40)
    for conv, arrays in expected.weights.filters.items():
        for found, wanted in zip(after.filters[conv], arrays, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert "pictures       2 measured, 1 passed over, 1 file ignored" in out
    assert "1 of 12: 4" in out
    assert "dead filters   1, at most 0.001 of their layer's mean; divided by the layer's median" in out
    assert f"{expected.means['relu3_1'].max():9.4g}" in out
    assert f"written        {output} ({output.stat().st_size:,} bytes)" in out
    assert "No --images" not in out
    assert after.sha256 in out
    lines = err.splitlines()
    assert [line for line in lines if line.startswith("passed over: ") and "damaged.jpg" in line]
    assert lines[-1] == "3/3 pictures"


def test_without_images_the_example_pair_is_measured_and_named(source, tmp_path, capsys):
    output = tmp_path / "out.h5"
    assert run(source, "-o", output, "--size", 64, "--storage", "float16") == 0
    out = capsys.readouterr().out
    assert "No --images: measuring on the example pair" in out
    assert "photographs are better" in out
    assert "2 measured, 0 passed over" in out
    assert "rounding" in out
    after = read_weights(output)
    assert after.provenance["storage"] == "float16"
    assert "over 2 pictures, long side at most 64" in after.provenance["normalized"]


def test_a_folder_that_is_missing_empty_or_none_is_one_line(source, tmp_path):
    def message(folder: Path, error: type[Exception] = OptionError) -> str:
        return refused(run, source, "--images", folder, "-o", tmp_path / "out.h5", error=error)

    assert "expected a folder of pictures, no such folder" in message(tmp_path / "none")
    assert "expected a folder of pictures, got something else" in message(source)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("not a picture")
    assert "expected at least one picture" in message(tmp_path / "empty", PictureError)
    (tmp_path / "empty" / "damaged.png").write_text("not a picture")
    assert "pictures: expected at least one that can be used" in message(tmp_path / "empty", PictureError)
    assert not (tmp_path / "out.h5").exists()


def test_a_place_that_cannot_be_written_is_refused_before_any_work(source, folder, tmp_path, capsys):
    def message(output: Path) -> str:
        return refused(run, source, "--images", folder, "-o", output, error=OutputError)

    before = source.read_bytes()
    assert "does not exist; make it first" in message(tmp_path / "no" / "out.h5")
    assert "got a folder" in message(tmp_path)
    assert "the output is the input itself" in message(source)
    assert source.read_bytes() == before
    (tmp_path / "photo.png").write_bytes(b"a photograph")
    assert "photo.png: expected a weights file or a new name, got another file" in message(tmp_path / "photo.png")
    assert (tmp_path / "photo.png").read_bytes() == b"a photograph"
    assert capsys.readouterr() == ("", "")


def test_bad_weights_and_bad_options_are_one_line(source, folder, tmp_path):
    output = ("-o", tmp_path / "out.h5")
    assert "no such file" in refused(run, tmp_path / "none.h5", *output, error=WeightsError)
    given = (source, "--images", folder, *output)
    assert "size: expected at least 16" in refused(run, *given, "--size", 3, error=OptionError)
    assert "threads" in refused(run, *given, "--threads", 0, error=OptionError)
    assert not (tmp_path / "out.h5").exists()


def test_a_terminal_gets_a_bar(source, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run(source, "--images", folder, "-o", tmp_path / "out.h5") == 0
    err = capsys.readouterr().err
    assert "100%" in err
    assert "3/3" in err
    assert "passed over: " in err


def test_the_command_knows_the_storages_and_the_size():
    assert tuple(storage.STORAGES) == command.STORAGES
    assert command.SIZE == normalize.SIZE


def test_help_waits_for_nothing_heavy():
    script = "import sys, nstcore.commands.normalize; print([m for m in ('numpy', 'h5py', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
