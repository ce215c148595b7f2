"""Every method of the folder keeps the contract, and each gives the numbers one gets by hand."""

import math

import pytest
import torch

from storage.records import Site
from tasks import catalogue
from tasks.alignment.examples import Rows
from tasks.alignment.method import Forward, Given, Group, Method
from tasks.alignment.terms import unknown_reference

SITES = (Site(0), Site(1))
WIDTH, LATENTS, VOCABULARY = 6, 10, 5
FOLDER = "alignment/methods"


class _Linear:
    """An autoencoder's encoder, as far as a loss reads it."""

    def __init__(self, seed: int) -> None:
        self.weight = torch.randn(WIDTH, LATENTS, generator=torch.Generator().manual_seed(seed))

    def pre_activations(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def rows(count: int) -> Rows:
    ones = torch.ones(count, 3, dtype=torch.long)
    state_mask = torch.tensor([[True, True], [True, False]]).repeat(count, 1)[:count]
    answer_mask = torch.tensor([[True, True, False], [True, False, False]]).repeat(count, 1)[:count]
    end_mask = torch.tensor([[False, False, True], [False, True, False]]).repeat(count, 1)[:count]
    tokens = torch.arange(count * 3).view(count, 3) % VOCABULARY
    return Rows(ones, ones, ones[:, :2], state_mask, ones[:, :2] * 0, ones, tokens, answer_mask, end_mask)


def forward(count: int, seed: int, needs: frozenset[str], prefix: str = "", grad: bool = False) -> Forward | None:
    generator = torch.Generator().manual_seed(seed)
    states = {site: torch.randn(count, 2, WIDTH, generator=generator) for site in SITES}
    logits = torch.randn(count, 3, VOCABULARY, generator=generator)
    for value in (*states.values(), logits):
        value.requires_grad_(grad)
    wants = {name for name in ("states", "answers") if f"{prefix}{name}" in needs}
    if not wants:
        return None
    return Forward(states if "states" in wants else {}, logits.log_softmax(-1) if "answers" in wants else None)


def groups(method: Method) -> tuple[Group, Group, Given]:
    made = []
    for seed, needs in ((1, method.forget_needs), (2, method.retain_needs)):
        student = forward(4, seed, needs, grad=True)
        assert student is not None
        made.append(Group(rows(4), student, forward(4, seed + 10, needs, "reference ")))
    forget, retain = made
    unknown, known = (
        {
            site: torch.randn(4, method.references, 2, WIDTH, generator=torch.Generator().manual_seed(seed))
            for site in SITES
        }
        if method.references
        else {}
        for seed in (5, 6)
    )
    forget = Group(forget.rows, forget.student, forget.reference, unknown, known)
    given = Given(
        SITES,
        {site: _Linear(site.layer) for site in SITES},  # type: ignore[misc]
        {site: {"known": [0, 1], "unknown": [2, 3]} for site in SITES},
        {site: torch.ones(WIDTH) for site in SITES},
        seed=0,
    )
    return forget, retain, given


@pytest.mark.parametrize("name", catalogue.names(FOLDER))
def test_contract(name: str) -> None:
    kind = catalogue.load(FOLDER, name)
    assert issubclass(kind, Method)
    method = kind()
    forget, retain, given = groups(method)
    loss = method.loss(forget, retain, given)
    assert torch.isfinite(loss.total)
    assert loss.total.ndim == 0
    again = method.loss(*groups(kind()))
    assert again.total == loss.total
    leaves = [
        value
        for group in (forget, retain)
        for value in (*group.student.states.values(), group.student.log_probabilities)
    ]
    gradients = torch.autograd.grad(loss.total, [leaf for leaf in leaves if leaf is not None], allow_unused=True)
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", catalogue.names(FOLDER))
def test_card_is_complete(name: str) -> None:
    import importlib

    card = importlib.import_module(catalogue.module_of(FOLDER, name)).__doc__ or ""
    for heading in ("L =", "Source:", "Defaults:", "Departs:", "Confidence:"):
        assert heading in card, f"the card of {name} lacks '{heading}'"


def two_tokens(probability: float, *, grad: bool = False) -> Forward:
    """One row, one answer token (token 0) with the given probability, then an end that is certain enough."""
    logits = torch.tensor([[[math.log(probability), math.log(1 - probability)], [0.0, 0.0]]], requires_grad=grad)
    return Forward({}, logits.log_softmax(-1))


def one_row() -> Rows:
    ones = torch.ones(1, 2, dtype=torch.long)
    return Rows(
        ones, ones, ones[:, :1], ones[:, :1].bool(), ones[:, :1] * 0, ones,
        torch.tensor([[0, 1]]), torch.tensor([[True, False]]), torch.tensor([[False, True]]),
    )  # fmt: skip


EMPTY = Given((), {}, {}, {}, 0)


def test_grad_diff_by_hand() -> None:
    method = catalogue.load(FOLDER, "grad_diff")(forget_weight=2.0, retain_weight=3.0)
    loss = method.loss(Group(one_row(), two_tokens(0.2), None), Group(one_row(), two_tokens(0.6), None), EMPTY)
    retain = -(math.log(0.6) + math.log(0.5)) / 2
    assert loss.total.item() == pytest.approx(2 * math.log(0.2) + 3 * retain, abs=1e-6)


def test_npo_by_hand() -> None:
    method = catalogue.load(FOLDER, "npo")(beta=0.5, retain_weight=0.0)
    forget = Group(one_row(), two_tokens(0.2), two_tokens(0.8))
    loss = method.loss(forget, Group(one_row(), two_tokens(0.6), None), EMPTY)
    ratio = math.log(0.2 / 0.8)
    assert loss.total.item() == pytest.approx(-(2 / 0.5) * math.log(1 / (1 + math.exp(0.5 * ratio))), abs=1e-6)


def test_npo_becomes_gradient_ascent() -> None:
    """As β → 0 the gradient is that of the answer's summed log-probability."""
    logits = torch.tensor([[[0.3, -0.4], [0.1, 0.2]]], requires_grad=True)
    forget = Group(one_row(), Forward({}, logits.log_softmax(-1)), two_tokens(0.8))
    loss = catalogue.load(FOLDER, "npo")(beta=1e-6, retain_weight=0.0).loss(
        forget, Group(one_row(), two_tokens(0.6), None), EMPTY
    )
    (gradient,) = torch.autograd.grad(loss.total, [logits])
    (ascent,) = torch.autograd.grad(logits.log_softmax(-1)[0, 0, 0], [logits])
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), ascent.flatten(), dim=0) > 0.9999


def test_rmu_by_hand() -> None:
    """With c = 0 and a student that did not move, the forget term is the mean squared state over the retain one's."""
    method = catalogue.load(FOLDER, "rmu")(coefficient=0.0)
    site, ones = Site(0), one_row()
    state = torch.full((1, 1, 4), 2.0)
    retain = Group(ones, Forward({site: state}, None), Forward({site: state}, None))
    loss = method.loss(Group(ones, Forward({site: 3 * state}, None), None), retain, Given((site,), {}, {}, {}, 0))
    assert loss.total.item() == pytest.approx(9.0)


@pytest.mark.parametrize("name", ["sae_guided", "residual_guided"])
def test_guided_without_pull_and_push_is_its_retain_term(name: str) -> None:
    method = catalogue.load(FOLDER, name)(pull=0.0, push=0.0, retain_states=3.0, retain_answers=1.0)
    loss = method.loss(*groups(method))
    expected = 3 * loss.parts["retain_states"] + loss.parts["retain_answers"]
    assert loss.total.item() == pytest.approx(expected.item())
    assert loss.parts["pull"] > 0


def test_residual_guided_by_hand() -> None:
    """Student on the reference: nothing to pull; as far from its former self as the reference is long: nothing to push."""
    method = catalogue.load(FOLDER, "residual_guided")()
    site, ones = Site(0), one_row()
    old, unknown = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    both = Forward({site: old}, two_tokens(0.6).log_probabilities)
    retain = Group(ones, both, both)
    scale = {site: torch.ones(2)}
    others = {site: unknown[:, None]}, {site: old[:, None]}
    there = Group(ones, Forward({site: unknown}, None), Forward({site: old}, None), *others)
    loss = method.loss(there, retain, Given((site,), {}, {}, scale, 0))
    assert loss.total.item() == pytest.approx(0.0, abs=1e-6)
    still = Group(ones, Forward({site: old}, None), Forward({site: old}, None), *others)
    parts = method.loss(still, retain, Given((site,), {}, {}, scale, 0)).parts
    assert parts["pull"].item() == pytest.approx(5.0)
    assert parts["push"].item() == pytest.approx(1.0)


def test_centred_reference_spreads_like_the_alias_and_lies_like_the_mean() -> None:
    unknown = torch.tensor([[[2.0, 3.0], [0.0, 1.0]]])
    known = torch.tensor([[[1.0, 5.0], [1.0, 7.0]]])  # knownness is the second coordinate
    assert unknown_reference(unknown, known, "mean").tolist() == [[1.0, 2.0]]
    assert unknown_reference(unknown, known, "alias").tolist() == [[2.0, 3.0]]
    assert unknown_reference(unknown, known, "centred").tolist() == [[2.0, 2.0]]
