"""`flowvae.FlowVAE`: the interface of scikit-learn."""

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from command_line import succeeds, write_images
from torch.utils.data import DataLoader, Dataset, TensorDataset

import flowvae
from flowvae import FlowVAE
from flowvae.config import Config
from flowvae.errors import UserError
from flowvae.models import Coded
from flowvae.models.vae import VAEOptions
from flowvae.runs.capability import needs

SMALL: dict[str, Any] = {"features": 8, "channels": 4, "latent": 3, "batch_size": 16, "steps": 6}
"""of the preset vae"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.npz"
    write_images(path)
    with np.load(path) as arrays:
        return arrays["train"]


@pytest.fixture(scope="module")
def fitted(images):
    return FlowVAE("vae", num_samples=3, **SMALL).fit(images)


def test_results_have_the_shapes_of_the_input(fitted, images):
    few = images[:5]
    assert fitted.score_samples(few).shape == (5,)
    codes = fitted.transform(few)
    assert codes.shape == (5, 3)
    assert fitted.inverse_transform(codes).shape == few.shape
    assert fitted.sample(4).shape == (4, 8, 8)
    np.testing.assert_array_equal(fitted.sample(4, seed=1), fitted.sample(4, seed=1))
    assert fitted.score(few) == pytest.approx(fitted.score_samples(few).mean())


def test_scores_and_codes_are_those_of_the_functions(fitted, images):
    pixels = torch.from_numpy(images[:5, None]).float()
    scores = flowvae.score(fitted.run_.model, pixels, 3, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(fitted.score_samples(images[:5]), -scores["nll"].numpy())
    with torch.no_grad():
        codes = fitted.run_.model.center(pixels)
    np.testing.assert_array_equal(fitted.transform(images[:5]), codes.numpy())


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x[:, None],
        lambda x: x.reshape(len(x), -1),
        lambda x: x.astype(float),
        lambda x: x * np.uint8(255),
        torch.from_numpy,
        lambda x: TensorDataset(torch.from_numpy(x), torch.zeros(len(x))),
        lambda x: DataLoader(TensorDataset(torch.from_numpy(x)), batch_size=2),
    ],
    ids=["channels", "flat", "floats", "to 255", "tensor", "Dataset", "DataLoader"],
)
def test_every_form_of_the_images_has_the_same_scores(fitted, images, form):
    few = images[:5]
    np.testing.assert_array_equal(fitted.score_samples(form(few)), fitted.score_samples(few))


def test_flat_images_stay_flat_and_the_training_is_the_same(fitted, images):
    flat = FlowVAE("vae", num_samples=3, **SMALL).fit(images.reshape(len(images), -1))
    assert flat.sample(2).shape == (2, 64)
    assert flat.inverse_transform(np.zeros((2, 3))).shape == (2, 64)
    np.testing.assert_array_equal(flat.transform(images), fitted.transform(images))


def test_grey_images_keep_their_levels(images):
    options: dict[str, Any] = {"binarization": "none", "likelihood": "logistic-mixture", **SMALL}
    grey = (images * 200 + 20).astype(np.uint8)
    estimator = FlowVAE("vae", num_samples=3, **options).fit(grey)
    scores = estimator.score_samples(grey[:3])
    np.testing.assert_array_equal(estimator.score_samples(grey[:3] / 255), scores)
    np.testing.assert_array_equal(estimator.score_samples((grey[:3] / 255).astype(np.float32)), scores)
    dark = np.zeros((1, 8, 8), np.uint8)
    dark[0, 0, 0] = 1
    assert estimator.score_samples(dark) != estimator.score_samples(dark.astype(float))


def test_channels_may_come_last(images):
    grey = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    colours = np.stack([grey, grey // 2, 255 - grey], 3)  # [N, H, W, C]
    options = {**SMALL, "likelihood": "logistic", "binarization": "none"}
    last = FlowVAE("vae", num_samples=2, **options).fit(colours)
    first = FlowVAE("vae", num_samples=2, **options).fit(colours.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(last.score_samples(colours), first.score_samples(colours))
    codes = last.transform(colours[:5])
    assert last.inverse_transform(codes).shape == (5, 8, 8, 3)
    for ours, theirs in (
        (last.inverse_transform(codes), first.inverse_transform(codes)),
        (last.sample(4, seed=1), first.sample(4, seed=1)),
    ):
        np.testing.assert_array_equal(ours, theirs.transpose(0, 2, 3, 1))


def test_the_scale_of_an_image_does_not_depend_on_the_others(images):
    options = {**SMALL, "likelihood": "logistic", "binarization": "none"}
    grey = np.random.default_rng(0).integers(0, 256, images.shape) / 255
    estimator = FlowVAE("vae", num_samples=2, **options).fit(grey)
    dark = np.zeros((1, 8, 8))
    dark[0, 0, 0] = 1 / 255
    together = estimator.score_samples(np.concatenate([dark, grey[:3]]))
    np.testing.assert_array_equal(estimator.score_samples(dark), together[:1])


def test_pixels_that_are_nan_are_missing(images, tmp_path):
    holes = images.astype(float)
    holes[:, :4, :3] = np.nan
    estimator = FlowVAE("vae", num_samples=3, missing="nan", directory=tmp_path / "kept", **SMALL).fit(holes)
    assert estimator.run_.spec.missing
    known = torch.from_numpy(~np.isnan(holes[:5, None]))
    pixels = torch.from_numpy(np.nan_to_num(holes[:5, None])).float()
    noise = torch.Generator().manual_seed(0)
    scores = flowvae.score(estimator.run_.model, pixels, 3, noise, observed=known)
    np.testing.assert_array_equal(estimator.score_samples(holes[:5]), -scores["nll"].numpy())
    with torch.no_grad():
        codes = needs(Coded, estimator.run_).center(pixels, observed=known)
    np.testing.assert_array_equal(estimator.transform(holes[:5]), codes.numpy())
    assert (estimator.transform(images[:5]) != codes.numpy()).any(), "the encoder sees which pixels are known"
    np.testing.assert_array_equal(estimator.score_samples(holes[4:5]), -scores["nll"][4:].numpy())
    np.testing.assert_array_equal(FlowVAE.load(tmp_path / "kept" / "run").transform(holes[:5]), codes.numpy())


def test_pixels_of_a_marked_level_are_missing(images):
    options: dict[str, Any] = {"binarization": "none", "likelihood": "logistic-mixture", **SMALL}
    grey = (images * 200 + 20).astype(np.uint8)
    marked = grey.copy()
    marked[:, 0] = 99
    estimator = FlowVAE("vae", num_samples=3, missing="99", **options).fit(marked)
    other = grey.copy()
    other[1:, 0] = 99
    scores = estimator.score_samples(other[:3])
    np.testing.assert_array_equal(scores[1:], estimator.score_samples(marked[1:3]))
    assert scores[0] != estimator.score_samples(marked[:1])


def test_saved_and_loaded_it_is_the_same_and_a_run(fitted, images, tmp_path):
    fitted.save(tmp_path / "saved")
    for again in (FlowVAE.load(tmp_path / "saved"), pickle.loads(pickle.dumps(fitted))):  # noqa: S301
        np.testing.assert_array_equal(again.transform(images[:5]), fitted.transform(images[:5]))
    np.savez(tmp_path / "few.npz", images=images[:9])
    succeeds("score", tmp_path / "saved", tmp_path / "few.npz", "--samples", 2)
    with pytest.raises(UserError, match="exists"):
        fitted.save(tmp_path / "saved")


def test_a_directory_keeps_a_run_that_the_command_line_continues(images, tmp_path):
    FlowVAE("vae", directory=tmp_path / "kept", **SMALL).fit(images)
    succeeds("train", "--resume", tmp_path / "kept" / "run", "--steps", 8)
    with pytest.raises(UserError, match="contains a run already"):
        FlowVAE("vae", directory=tmp_path / "kept", **SMALL).fit(images)


LEARNING: dict[str, Any] = {"features": 8, "channels": 8, "learning_rate": 0.01, "learning_rate_warm_up": 5}


@pytest.fixture(scope="module")
def of_halves(halves):
    """Images [N, 8, 8], and which half is bright."""
    with np.load(halves) as arrays:
        return (arrays["train"].reshape(-1, 8, 8) > 127).astype(np.uint8), arrays["train_labels"]


@pytest.fixture(scope="module")
def conditional(of_halves):
    return FlowVAE("vae", num_samples=8, labels=True, latent=3, steps=120, **LEARNING).fit(*of_halves)


def test_a_conditional_model_scores_and_predicts(conditional, of_halves, tmp_path):
    images, labels = of_halves[0][:9], of_halves[1][:9]
    model, pixels = conditional.run_.model, torch.from_numpy(images[:, None]).float()
    noise, given = torch.Generator().manual_seed(0), torch.from_numpy(labels).long()
    of_class = flowvae.score(model, pixels, 8, noise, labels=given)["nll"].numpy()
    np.testing.assert_array_equal(conditional.score_samples(images, labels), -of_class)
    np.testing.assert_array_equal(
        conditional.score_samples(images), -flowvae.score(model, pixels, 8, noise)["nll"].numpy()
    )
    log_class = conditional.predict_log_proba(images)
    np.testing.assert_array_equal(log_class, flowvae.classify(model, pixels, 8, noise).numpy())
    np.testing.assert_array_equal(log_class[3:4], conditional.predict_log_proba(images[3:4]))
    np.testing.assert_allclose(conditional.predict_proba(images).sum(1), 1)
    assert (conditional.predict(of_halves[0]) == of_halves[1]).mean() > 0.8
    conditional.save(tmp_path / "saved")
    np.testing.assert_array_equal(
        FlowVAE.load(tmp_path / "saved").set_params(num_samples=8).predict(images), log_class.argmax(1)
    )


def test_a_conditional_model_takes_labels(conditional, of_halves):
    images, labels = of_halves[0][:9], of_halves[1][:9]
    model, given, others = conditional.run_.model, torch.from_numpy(labels), torch.from_numpy(1 - labels)
    codes = conditional.transform(images, labels)
    with torch.no_grad():
        expected = model.center(torch.from_numpy(images[:, None]).float(), labels=given)
        np.testing.assert_array_equal(codes, expected)
        decoded = model.decode(expected, labels=others)[:, 0]
    np.testing.assert_array_equal(conditional.inverse_transform(codes, 1 - labels), decoded)
    drawn = conditional.sample(9, seed=0, labels=labels)
    assert (conditional.predict((drawn > 0.5).astype(np.uint8)) == labels).mean() > 0.8
    assert conditional.sample(2).shape == (2, 8, 8)
    for wrong, what in [(None, "labels are missing"), (labels[1:], "one whole number"), (labels + 1, "is 2")]:
        with pytest.raises(UserError, match=what):
            conditional.transform(images, wrong)
        with pytest.raises(UserError, match=what):
            conditional.inverse_transform(codes, wrong)


def test_few_labels_are_enough_for_a_semi_supervised_model(of_halves):
    images, labels = of_halves
    few = np.where(np.arange(len(labels)) % 4, -1, labels)
    estimator = FlowVAE("semi-supervised", labels_used=4, latent=2, batch_size=32, steps=60, **LEARNING)
    assert (estimator.fit(images, few).predict(images) == labels).mean() > 0.8
    assert estimator.run_.spec.classes == 2


@pytest.mark.parametrize(
    ("y", "what"),
    [
        (None, "y is missing"),
        (np.zeros(5, int), "no classes"),
        (np.full(60, 0.5), "no classes"),
        (np.full(60, -2), "no classes"),
        (np.full(60, "one"), "no classes"),
        (np.zeros(60, int), "a single class"),
    ],
    ids=["none", "too few", "no numbers", "negative", "words", "one class"],
)
def test_labels_that_cannot_be_learned_from_are_refused(y, what):
    images = np.zeros((60, 8, 8), np.uint8)
    for estimator in (FlowVAE("vae", labels=True, steps=1), FlowVAE("semi-supervised", steps=1)):
        with pytest.raises(UserError, match=what):
            estimator.fit(images, y)


def test_labels_are_ignored_by_other_models(fitted, images):
    again = FlowVAE("vae", num_samples=3, **SMALL).fit(images, ["what"] * len(images))
    np.testing.assert_array_equal(again.transform(images), fitted.transform(images))
    with pytest.raises(UserError, match="not conditional"):
        again.transform(images, np.zeros(len(images), int))
    with pytest.raises(UserError, match="no classifier"):
        again.predict(images)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (np.zeros((4, 10)), "rows of 10 numbers"),
        (np.full((4, 8, 8), np.nan), "NaN"),
        (np.full((4, 8, 8), 0.3), "not 8-bit levels"),
        (np.zeros((4, 12, 12)), "was trained on"),
        (np.zeros((4, 8, 8), complex), "real numbers"),
        (np.zeros((0, 8, 8)), "shape"),
        (np.zeros(8), "shape"),
    ],
)
def test_what_is_no_image_of_the_model_is_refused(fitted, wrong, what):
    with pytest.raises(UserError, match=what):
        fitted.score_samples(wrong)
    with pytest.raises(ValueError, match=what):
        fitted.transform(wrong)


@pytest.mark.parametrize("codes", [np.zeros(3), np.zeros((2, 4)), np.full((2, 3), np.inf)])
def test_what_is_no_code_is_refused(fitted, codes):
    with pytest.raises(UserError, match=r"give finite codes \[N, 3\]"):
        fitted.inverse_transform(codes)


def test_a_data_set_ends_at_its_length(fitted, images):
    class Endless(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return images[index % 3]

    np.testing.assert_array_equal(fitted.transform(Endless()), fitted.transform(images[:3]))


def test_a_bundled_model_is_loaded():
    density = FlowVAE.load("density-mnist")
    assert density.transform(np.zeros((2, 28, 28), np.uint8)).shape == (2, 32)


@dataclasses.dataclass(frozen=True)
class OwnSystem(VAEOptions):
    name = "own"


def test_options_are_parameters_and_fit_checks_them(images):
    estimator = FlowVAE("vae", latent=3).set_params(features=8, minutes=2.0)
    parameters = estimator.get_params()
    assert (parameters["latent"], parameters["features"], parameters["minutes"]) == (3, 8, 2.0)
    with pytest.raises(UserError, match="did you mean latent"):
        FlowVAE("vae", laten=3).fit(images)
    with pytest.raises(UserError, match="data has no effect, as images are given to fit"):
        FlowVAE("vae", data="mnist").fit(images)
    with pytest.raises(UserError, match="grey has no effect on arrays"):
        FlowVAE("vae", grey=True).fit(images)
    with pytest.raises(UserError, match="preset has a system of your own, OwnSystem, which cannot be loaded"):
        FlowVAE(Config(model=OwnSystem())).fit(images)
    with pytest.raises(ValueError, match="not fitted"):
        estimator.transform(images)
    with pytest.raises(UserError, match="no code"):
        FlowVAE("pixelcnn", steps=1, causal_channels=4, causal_blocks=1).fit(images).transform(images)


NO_IMAGES = "its data are no images"
WAIVED = {
    "check_complex_data": "refused, in other words",
    "check_estimators_empty_data_messages": "refused, in other words",
    "check_fit2d_1feature": "refused, in other words",
    "check_fit2d_1sample": "refused, in other words",
    "check_no_attributes_set_in_init": "options of the preset are attributes as well",
    **{
        f"check_{name}": NO_IMAGES
        for name in (
            "dict_unchanged",
            "dont_overwrite_parameters",
            "dtype_object",
            "estimators_dtypes",
            "estimators_fit_returns_self",
            "estimators_nan_inf",
            "estimators_overwrite_params",
            "estimators_pickle",
            "f_contiguous_array_estimator",
            "fit2d_predict1d",
            "fit_check_is_fitted",
            "fit_idempotent",
            "fit_score_takes_y",
            "methods_sample_order_invariance",
            "methods_subset_invariance",
            "n_features_in",
            "n_features_in_after_fitting",
            "pipeline_consistency",
            "positive_only_tag_during_fit",
            "readonly_memmap_input",
            "transformer_data_not_an_array",
            "transformer_general",
            "transformer_preserve_dtypes",
        )
    },
}
"""scikit-learn's checks that do not pass, and why"""


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks_pass_except_those_that_need_tables():
    checks = pytest.importorskip("sklearn.utils.estimator_checks", reason="scikit-learn is not installed")
    estimator = FlowVAE("vae", num_samples=2, **{**SMALL, "steps": 2})
    results = checks.check_estimator(estimator, on_skip=None, on_fail=None)
    failed = {result["check_name"] for result in results if result["status"] == "failed"}
    assert failed == WAIVED.keys()
    assert sum(result["status"] == "passed" for result in results) > 10


def test_it_works_in_pipelines_searches_and_clones(images):
    base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")
    from sklearn.linear_model import LogisticRegression  # pyright: ignore[reportMissingImports]
    from sklearn.model_selection import GridSearchCV  # pyright: ignore[reportMissingImports]
    from sklearn.pipeline import make_pipeline  # pyright: ignore[reportMissingImports]

    flat = images.reshape(len(images), -1)
    estimator = FlowVAE("vae", num_samples=2, **SMALL)
    assert base.clone(estimator).get_params() == estimator.get_params()
    search = GridSearchCV(estimator, {"latent": [2, 3], "seed": [1]}, cv=2).fit(flat)
    assert search.best_params_["latent"] in (2, 3)
    bright = flat[:, 7] > 0
    classifier = make_pipeline(estimator, LogisticRegression()).fit(flat, bright)
    assert classifier.predict(flat).shape == (len(flat),)
