"""M2: its bounds against exact sums, its labels, and the scores of its classes."""

import csv
import io
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import flowvae, is_refusal, succeeds
from made_runs import message
from PIL import Image
from system_table import TABLE
from tiny_runs import assert_equal
from torch import Tensor, nn

import flowvae as package
from flowvae.batch import Batch, DataSpec
from flowvae.densities import BernoulliLikelihood, GaussianPosterior, StandardNormal
from flowvae.errors import UserError
from flowvae.evaluation import log_marginal
from flowvae.evaluation.calibration import calibration_error
from flowvae.models.class_and_code import ImageAndLabel, SemiSupervised
from flowvae.models.classification import divergence, information_loss, smoothness_loss
from flowvae.models.labels import draw_labelled
from flowvae.models.registry import preset
from flowvae.models.semi_supervised import SemiSupervisedOptions
from flowvae.models.stacked import Stacked
from flowvae.models.vae import VAEOptions
from flowvae.parts import revised, shaping
from flowvae.runs import Run, read_json
from flowvae.training.seeding import seed_everything

CLASSES, PIXELS = 3, 4
ALL = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * PIXELS).view(-1, 1, 2, 2).double()


class Linear(nn.Module):
    """Logits of pixels, linear in the code and the class."""

    def __init__(self, of_code: float) -> None:
        super().__init__()
        self.linear = nn.Linear(1 + CLASSES, PIXELS)
        with torch.no_grad():
            self.linear.weight.mul_(4)
            self.linear.weight[:, 0] = of_code * torch.randn(PIXELS)

    def forward(self, code: Tensor) -> Tensor:
        return self.linear(code).view(-1, 1, 2, 2)


def toy(of_code: float, exact_classes: bool = False) -> SemiSupervised:
    """A model of 2 x 2 binary pixels with one latent dimension."""
    likelihood = BernoulliLikelihood(Linear(of_code), (1, 2, 2))
    posterior = GaussianPosterior(5, 1)
    nn.init.zeros_(posterior.mean_and_log_scale.weight)
    nn.init.zeros_(posterior.mean_and_log_scale.bias)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 5))
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, CLASSES))
    model = SemiSupervised(
        classifier, encoder, ImageAndLabel(5, CLASSES), posterior, StandardNormal(1), likelihood, CLASSES
    )
    model.double().eval()
    if exact_classes:
        joint = exact_joint(model)
        model.log_class = lambda images: joint.log_softmax(0).t()[places(images)]  # type: ignore[method-assign]
    return model


def places(images: Tensor) -> Tensor:
    """Positions of images in ``ALL``."""
    return (images.view(-1, 1, PIXELS) == ALL.view(1, -1, PIXELS)).all(2).double().argmax(1)


def exact_joint(model: SemiSupervised) -> Tensor:
    """Compute log p(x, y) of all images, [K, 16], by a sum over a fine grid of z."""
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    log_prior = model.prior().log_prob(z[:, None]) + math.log(18 / 2000)
    rows = []
    for label in range(CLASSES):
        labels = torch.full((len(z), 1), label)
        pixels = model.likelihood(model._code(z.view(-1, 1, 1), labels)).log_prob(ALL)  # [2001, 16]
        rows.append((pixels + log_prior[:, None]).logsumexp(0) - math.log(CLASSES))
    return torch.stack(rows)


@torch.no_grad()
def test_the_bound_is_the_likelihood_if_the_posteriors_are_exact():
    """With a decoder that ignores z, q(z|x, y) = p(z) is exact."""
    model = toy(of_code=0.0, exact_classes=True)
    exact = exact_joint(model)
    assert exact.logsumexp((0, 1)).item() == pytest.approx(0, abs=1e-9)
    terms, _ = model(ALL)
    torch.testing.assert_close(model._joint_bound(terms), exact)
    scores = model.validate(Batch(ALL, torch.arange(len(ALL))))
    torch.testing.assert_close(scores["negative_elbo"], -exact.logsumexp(0))
    torch.testing.assert_close(scores["negative_elbo"], scores["kl"] + scores["reconstruction"])
    torch.testing.assert_close(log_marginal(model, ALL, 3), exact.logsumexp(0))


@torch.no_grad()
def test_the_bound_is_below_the_likelihood_by_the_divergence_of_the_classes():
    model = toy(of_code=0.0)
    exact, log_class = exact_joint(model), model.classify(ALL).t()
    divergence = (log_class.exp() * (log_class - exact.log_softmax(0))).sum(0)
    assert (divergence > 0.01).all()
    elbo = -model.validate(Batch(ALL, torch.arange(len(ALL))))["negative_elbo"]
    torch.testing.assert_close(elbo, exact.logsumexp(0) - divergence)


@torch.no_grad()
def test_importance_sampling_over_class_and_code_finds_the_likelihood():
    model = toy(of_code=2.0)
    exact = exact_joint(model)
    noise = torch.Generator().manual_seed(0)
    weights = model.draws_for(ALL, noise)(20_000)
    log_weights = weights.likelihood + weights.prior - weights.posterior
    scaled = (log_weights - exact.logsumexp(0)).exp()  # mean 1
    assert ((scaled.mean(0) - 1).abs() < 4 * scaled.std(0) / 20_000**0.5).all()
    many = Batch(ALL.repeat(2000, 1, 1, 1), torch.arange(32_000))
    sums = model.validate(many)["negative_elbo"].view(2000, -1)
    error = sums.std(0) / 2000**0.5
    assert (sums.mean(0) + exact.logsumexp(0) > -3 * error).all()  # U <= log p
    of_draws = -log_weights
    spread = (of_draws.std(0).square() / 20_000 + error.square()).sqrt()
    assert ((of_draws.mean(0) - sums.mean(0)).abs() < 4 * spread).all()


@torch.no_grad()
def test_validation_and_draws_of_the_stack_have_the_same_mean():
    model = (
        TABLE["semi-supervised-stacked"].options_of_system().build(DataSpec((1, 8, 8), 2, classes=2)).eval()
    )
    assert isinstance(model, Stacked)
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    image = torch.rand(1, 1, 8, 8).round()
    drawn = model.draws_for(image)(4000)
    bound = (drawn.likelihood + drawn.prior - drawn.posterior)[:, 0]
    many = Batch(image.expand(4000, -1, -1, -1), torch.arange(4000))
    sums = model.validate(many)["negative_elbo"]
    spread = ((bound.var() + sums.var()) / 4000).sqrt()
    assert abs(bound.mean() + sums.mean()) < 4 * spread


# Labels.


def labelled(labels: list[int], size: int = 7) -> list[Batch]:
    images = torch.arange(len(labels)).float().view(-1, 1, 1, 1)
    return list(Batch(images, torch.arange(len(labels)), torch.tensor(labels)).split(size))


def test_as_many_images_of_each_class_are_drawn():
    labels = [0, 1, 1, 5, -1] * 20
    drawn = [draw_labelled(labelled(labels), 12, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    for batch in drawn:
        assert batch.labels is not None
        assert batch.labels.bincount().tolist() == [4, 4, 0, 0, 0, 4]
        assert len(batch.index.unique()) == 12
        assert [labels[place] for place in batch.index] == batch.labels.tolist()
        assert torch.equal(batch.images.flatten(), batch.index.float())
    assert torch.equal(drawn[0].index, drawn[1].index)
    assert not torch.equal(drawn[0].index, drawn[2].index)
    hidden = [label if place in drawn[0].index else -1 for place, label in enumerate(labels)]
    again = draw_labelled(labelled(hidden), 12, torch.Generator().manual_seed(1))
    assert torch.equal(again.index, drawn[0].index)


def test_every_image_of_a_class_is_drawn_equally_often():
    noise = torch.Generator().manual_seed(0)
    draws = 2000
    index = torch.cat([draw_labelled(labelled([0, 1] * 10), 4, noise).index for _ in range(draws)])
    counts = index.bincount(minlength=20)
    assert (counts - draws / 5).abs().max() < 5 * (draws * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize(
    ("labels", "number", "parts"),
    [
        (
            [0, 0, 1],
            4,
            ["labels_used is 4, 2 of each class, but class 1 has only 1", "at most --labels-used 2"],
        ),
        ([0, 1, 2], 4, ["multiple of the number of classes, 3"]),
        ([-1, -1], 4, ["have no labels"]),
    ],
)
def test_labels_that_cannot_be_drawn_are_one_line(labels, number, parts):
    with pytest.raises(UserError) as error:
        draw_labelled(labelled(labels), number, torch.Generator())
    message(error, *parts)


def test_no_other_label_affects_the_weights(halves, tmp_path):
    row = TABLE["semi-supervised-planar"]
    package.train(tmp_path / "run", row.config(halves))
    arrays = dict(np.load(halves))
    loaded = package.load_dataset(str(halves), "none").train
    assert loaded.labels is not None
    with torch.random.fork_rng():
        seed_everything(0)
        everything = Batch(loaded.images, torch.arange(len(loaded.images)), loaded.labels)
        used = draw_labelled([everything], 10, torch.Generator().manual_seed(torch.initial_seed())).index
    hidden = np.full_like(arrays["train_labels"], -1)
    hidden[used] = arrays["train_labels"][used]
    arrays |= {"train_labels": hidden, "valid_labels": 1 - arrays["valid_labels"]}
    np.savez(tmp_path / "halves.npz", **arrays)
    package.train(tmp_path / "other", row.config(tmp_path / "halves.npz"))
    weights, others = (package.load(tmp_path / name).state_dict() for name in ("run", "other"))
    assert_equal(dict(weights), dict(others))


# Regularization of the classifier, and M1 from a trained run.


def test_the_virtual_adversarial_direction_changes_classes_more_than_random_ones():
    torch.manual_seed(0)
    layer = nn.Linear(6, 20).double()
    classifier = nn.Sequential(layer, nn.Tanh(), nn.Linear(20, CLASSES).double())
    inputs = torch.randn(50, 6).double()
    log_class = classifier(inputs).log_softmax(1)
    found = smoothness_loss(classifier, inputs, log_class, radius=0.3)
    noise = torch.nn.functional.normalize(torch.randn(200, 50, 6).double(), dim=2)
    with torch.no_grad():
        random = [divergence(log_class, classifier(inputs + 0.3 * each).log_softmax(1)) for each in noise]
        assert found > max(random)
        # Of three classes and two inputs, all directions can be tried.
        angles = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
        flat, few = nn.Linear(2, CLASSES).double(), torch.randn(1, 2).double()
        exact = flat(few).log_softmax(1)
        circle = 0.1 * torch.stack([angles.cos(), angles.sin()], 1)
        largest = max(divergence(exact, flat(few + step).log_softmax(1)) for step in circle)
    steps = [smoothness_loss(flat, few, exact, radius=0.1).item() for _ in range(20)]
    assert max(steps) == pytest.approx(largest.item(), rel=0.02)
    assert max(steps) <= largest.item() * (1 + 1e-4)
    (gradient,) = torch.autograd.grad(found, [layer.weight])
    assert gradient.abs().max() > 0


def test_the_information_of_classes_is_that_of_its_formula():
    chance = torch.softmax(torch.randn(40, CLASSES).double(), 1)
    joint = chance / 40
    information = (joint * (joint / (joint.sum(0) * joint.sum(1, keepdim=True))).log()).sum()
    torch.testing.assert_close(information_loss(chance.log()), -information)
    certain = torch.eye(CLASSES).double().repeat(5, 1).clamp(min=1e-12).log()
    assert information_loss(certain).item() == pytest.approx(-math.log(CLASSES))
    assert information_loss(chance[:1].log().expand(7, -1)).item() == pytest.approx(0, abs=1e-12)


SIZES = ["--features", 16, "--channels", 8, "--batch-size", 32, "--track", "none"]


@pytest.fixture(scope="module")
def first(halves, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "first"
    succeeds("train", "vae", "--data", halves, "--latent", 3, *SIZES, "--steps", 40, "--out", run)
    return run


def stacked_on(first: Path, out: Path, *more: Any):
    command = ("train", "semi-supervised-stacked", "--first", first, "--labels-used", 4, "--latent", 2)
    return flowvae(*command, *SIZES, "--steps", 6, "--out", out, *more)


def test_a_trained_autoencoder_is_the_first_and_stays_as_it_is(first, halves, tmp_path):
    shutil.copytree(first, tmp_path / "first")
    data = ("--data", halves, "--first-latent", 3)
    result = stacked_on(tmp_path / "first", tmp_path / "run", *data)
    assert result.code == 0, result.err
    shutil.rmtree(tmp_path / "first")  # a run has the whole model
    trained, given = Run(tmp_path / "run").model, Run(first).model
    assert isinstance(trained, Stacked)
    assert_equal(dict(trained.first.state_dict()), dict(given.state_dict()))
    records = Run(tmp_path / "run").records
    assert not any("first_negative_elbo" in record for record in records)
    succeeds("train", "--resume", tmp_path / "run", "--steps", 8)
    trained = Run(tmp_path / "run").model
    assert isinstance(trained, Stacked)
    assert_equal(dict(trained.first.state_dict()), dict(given.state_dict()))


def test_a_first_autoencoder_that_does_not_fit_is_one_line(first, trained, halves, tmp_path):
    data, out = ("--data", halves), tmp_path / "run"
    is_refusal(stacked_on(first, out, *data, "--first-latent", 4), "latent = 3; its weights do not fit 4")
    is_refusal(
        stacked_on(trained, out, *data), "has the system semi-supervised; give a run of the system vae"
    )
    is_refusal(stacked_on(tmp_path / "none", out, *data), "is not a directory")
    assert not out.exists()


def test_the_presets_fit_each_other():
    stacked, vae = (preset(name).model for name in ("semi-supervised-stacked", "vae"))
    assert isinstance(stacked, SemiSupervisedOptions)
    assert isinstance(vae, VAEOptions)
    stacked = revised(stacked, {"first": "runs/vae"})
    source = stacked.build(DataSpec((1, 28, 28), 2, classes=10)).sources()["first"]
    assert source.options.items() <= shaping(vae).items()


# Scores of classes.


def test_the_calibration_error_is_that_of_its_formula():
    confidence = torch.rand(500, generator=torch.Generator().manual_seed(0)).clamp(min=0.01)
    # Accuracies above and below the confidence: of one sign, gaps would add up to the same for any bins.
    accuracy = (1 + (40 * confidence).cos()) / 2
    correct = torch.rand(500, generator=torch.Generator().manual_seed(1)) < accuracy
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            gap = correct[inside].double().mean() - confidence[inside].double().mean()
            expected += inside.double().mean().item() * abs(gap.item())
    assert calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-3)
    assert calibration_error(torch.ones(4), torch.tensor([True, False, False, False])) == 0.75


# The command line.


@pytest.fixture(scope="module")
def trained(halves, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "few"
    small = ["--latent", 2, "--features", 16, "--channels", 8, "--labels-used", 4, "--batch-size", 32]
    succeeds(
        "train",
        "semi-supervised",
        "--data",
        halves,
        *small,
        "--steps",
        60,
        "--learning-rate-warm-up",
        5,
        "--out",
        run,
        "--track",
        "none",
    )
    return run


def test_two_labels_of_each_class_are_enough_for_halves(trained):
    printed = succeeds("evaluate", trained, "--samples", 5)
    assert all(column in printed for column in ("error", r"-log q(y\|x)", "ECE", "-ELBO"))
    scores = read_json(trained / "evaluation.json")
    assert scores["class_error"] <= 0.1
    assert scores["class_nll"] < math.log(2) / 2
    assert 0 <= scores["calibration_error"] <= 1
    model = Run(trained).model
    assert isinstance(model, SemiSupervised)
    batch = Run(trained).dataset.batch("test", torch.arange(40))
    assert batch.labels is not None
    predicted = model.classify(batch.images).argmax(1)
    assert scores["class_error"] == pytest.approx((predicted != batch.labels).double().mean().item())


def test_images_are_classified_one_by_one(trained, halves, tmp_path):
    printed = succeeds("classify", trained, halves)
    assert (
        succeeds("classify", trained, halves, "--out", tmp_path / "labels.csv")
        == f"{tmp_path / 'labels.csv'}\n"
    )
    assert (tmp_path / "labels.csv").read_text() == printed
    rows = list(csv.DictReader(io.StringIO(printed)))
    images = Run(trained).dataset.batch("test", torch.arange(len(rows))).images
    model = Run(trained).model
    assert isinstance(model, SemiSupervised)
    log_class = model.classify(images)
    for place, row in enumerate(rows):
        assert row["name"] == f"test/{place}"
        assert int(row["class"]) == log_class[place].argmax()
        assert float(row["probability"]) == pytest.approx(log_class[place].exp().max().item(), rel=1e-5)
        of_classes = [float(row[f"log_q_{label}"]) for label in range(2)]
        assert of_classes == pytest.approx(log_class[place].tolist(), rel=1e-4, abs=1e-5)
    is_refusal(flowvae("classify", trained, halves, "--out", tmp_path / "labels.md"), ".csv")
    is_refusal(flowvae("classify", "density-mnist", "mnist"), "has no classifier")


def test_classes_of_a_directory_have_their_names(halves, tmp_path):
    arrays = np.load(halves)
    for place, (image, label) in enumerate(zip(arrays["train"], arrays["train_labels"], strict=True)):
        file = tmp_path / "data" / ("left", "right")[label] / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.squeeze(image) * np.uint8(255)).save(file)
    small = ["--latent", 2, "--features", 8, "--channels", 4, "--labels-used", 4, "--steps", 2]
    data = ["--data", tmp_path / "data", "--binarization", "threshold", "--track", "none"]
    succeeds("train", "semi-supervised", *data, *small, "--out", tmp_path / "run")
    header, *rows = succeeds("classify", tmp_path / "run", tmp_path / "data").splitlines()
    assert header == "name,class,probability,log_q_left,log_q_right"
    assert rows[0].startswith("left/")
    assert {row.split(",")[1] for row in rows} <= {"left", "right"}
    (tmp_path / "data").rename(tmp_path / "moved")  # names are not known any more
    header, *_ = succeeds("classify", tmp_path / "run", tmp_path / "moved").splitlines()
    assert header == "name,class,probability,log_q_0,log_q_1"


def test_mistakes_are_one_line(trained, halves, tmp_path):
    arrays = dict(np.load(halves))

    def train(labels: str, **changed: Any):
        kept: dict[str, Any] = {
            name: value for name, value in (arrays | changed).items() if value is not None
        }
        np.savez(tmp_path / "data.npz", **kept)
        out = ["--out", tmp_path / "run", "--steps", 1, "--track", "none"]
        return flowvae(
            "train", "semi-supervised", "--data", tmp_path / "data.npz", "--labels-used", labels, *out
        )

    is_refusal(train("5"), "multiple of the number of classes, 2")
    is_refusal(train("1000"), "500 of each class", "choose at most --labels-used")
    is_refusal(train("0"), "labels_used is 0")
    no_labels = {f"{split}_labels": None for split in ("train", "valid", "test")}
    is_refusal(train("4", **no_labels), "have no labels; choose data with labels")
    is_refusal(train("4", train_labels=arrays["train_labels"] + 0.5), "labels")
    assert not (tmp_path / "run").exists()
    arrays["test_labels"][:] = 7
    np.savez(tmp_path / "other.npz", **arrays)
    is_refusal(flowvae("evaluate", trained, "--data", tmp_path / "other.npz", "--samples", 2), "class 7")


def test_images_without_labels_have_no_scores_of_classes(trained, halves, tmp_path):
    arrays = {name: value for name, value in np.load(halves).items() if "labels" not in name}
    np.savez(tmp_path / "plain.npz", **arrays)
    succeeds("evaluate", trained, "--data", tmp_path / "plain.npz", "--samples", 2)
    scores = read_json(trained / "evaluation-plain.json")
    assert "negative_elbo" in scores
    assert not {"class_error", "class_nll", "calibration_error", "class_confidence"} & scores.keys()
