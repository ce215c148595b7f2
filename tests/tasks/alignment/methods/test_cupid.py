"""CUPID: the two pathways by hand, and what is measured before the first step against the plain network."""

from collections.abc import Callable
from math import log
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from storage.records import UsageError
from tasks.alignment.examples import Rows
from tasks.alignment.method import Forward, Given, Group, Start
from tasks.alignment.methods.weight.cupid import CUPID
from tasks.alignment.passes import compute

EMPTY = Given((), {}, {}, {}, 0)


def prepared(method: CUPID, student: Any, forget: Rows) -> Any:
    nothing = Forward({}, None)

    def run(rows: Rows, where: Any = (), *, states: bool = True, answers: bool = True) -> Forward:
        return compute(student, rows, where, states=states, answers=answers)

    return method.prepare(Start(student, {"forget": Group(forget, nothing, nothing)}, EMPTY, run))


def by_hand(gathered: list[list[float]], total: list[float], weight: float, direction: list[float]) -> list[float]:
    """The gradient that is left of `total` in two weights, the first of them in the mask, with w̄ = 10."""
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    parameters = {"first": first, "second": second}
    first.grad, second.grad = torch.tensor(total[:1]), torch.tensor(total[1:])
    paths = SimpleNamespace(
        parameters=parameters,
        mask={"first": torch.tensor([True]), "second": torch.tensor([False])},
        direction={"first": torch.tensor(direction[:1]), "second": torch.tensor(direction[1:])},
        sharpness=10.0,
        gathered=[{"first": torch.tensor(each[:1]), "second": torch.tensor(each[1:])} for each in gathered],
    )
    given = Given((), {}, {}, {}, 0, prepared=paths)
    CUPID(forget_weight=weight).shape_gradients(parameters, given)
    assert paths.gathered == [], "the next step begins anew"
    assert first.grad is not None
    assert second.grad is not None
    return [*first.grad.tolist(), *second.grad.tolist()]


def test_the_two_pathways_by_hand() -> None:
    """g_f = (4, 2) along g_c = (1, 1) is (3, 3), across it (1, -1); ascent, so with a minus."""
    assert by_hand([[4.0, 2.0]], [-4.0, -2.0], 1.0, [1.0, 1.0]) == pytest.approx([-30.0, 1.0])


def test_what_the_retain_term_asks_for_passes_whole() -> None:
    assert by_hand([[4.0, 2.0]], [-8.0 + 0.5, -4.0 - 0.25], 2.0, [1.0, 1.0]) == pytest.approx([-60.0 + 0.5, 2.0 - 0.25])


def test_parts_of_a_step_are_averaged_as_the_loop_does() -> None:
    assert by_hand([[6.0, 2.0], [2.0, 2.0]], [-4.0, -2.0], 1.0, [1.0, 1.0]) == pytest.approx([-30.0, 1.0])


def test_without_a_causal_direction_all_of_the_gradient_is_across_it() -> None:
    assert by_hand([[4.0, 2.0]], [-4.0, -2.0], 1.0, [0.0, 0.0]) == pytest.approx([0.0, -2.0])


def test_the_loss_is_ascent_and_a_retain_term(answers: Callable[..., Group], slope: Callable[..., Tensor]) -> None:
    forget, retain = answers([0.2, 0.5], [0.7]), answers([0.6])
    assert forget.student.log_probabilities is not None
    leaf: Any = forget.student.log_probabilities
    paths = SimpleNamespace(parameters={"leaf": leaf}, gathered=[])
    given = Given((), {}, {}, {}, 0, prepared=paths)
    loss = CUPID(forget_weight=2.0, retain_weight=3.0).loss({"forget": forget, "retain": retain}, given)
    forgotten = ((log(0.2) + log(0.5)) / 2 + log(0.7)) / 2
    assert loss.total.item() == pytest.approx(2 * forgotten - 3 * (log(0.6) + log(0.5)) / 2)
    (gathered,) = paths.gathered
    assert gathered["leaf"][0, :, 0].tolist() == pytest.approx([-0.25, -0.25, 0.0]), "of ℓ, neither negated nor weighed"
    assert torch.equal(slope(loss, forget), -2 * gathered["leaf"])
    assert float(gathered["leaf"][..., 1].abs().max()) == 0, "the end is not pushed down"


def losses(student: Any, rows: Rows, row: int) -> Tensor:
    """ℓ of one row by the model alone."""
    own = rows.answer_mask[row]
    log_p = student.model(rows.ids[row : row + 1, : int(rows.mask[row].sum())]).logits[0].log_softmax(-1)
    return -log_p[rows.answer_positions[row][own], rows.answer_tokens[row][own]].mean()


def plain(student: Any, rows: Rows, row: int) -> tuple[dict[str, Tensor], float]:
    """Gradient of a fact's loss in all weights but the embeddings, and its sharpness for a step of length 1e-2."""
    names = [name for name, _ in student.model.named_parameters() if "embed" not in name]
    parameters = [student.model.get_parameter(name) for name in names]
    loss = losses(student, rows, row)
    gradients = torch.autograd.grad(loss, parameters)
    norm = torch.cat([each.flatten() for each in gradients]).norm()
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.add_(1e-2 * gradient / norm)
        sharpness = float(losses(student, rows, row) - loss)
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(old)
    return dict(zip(names, gradients, strict=True)), sharpness


@pytest.fixture
def forget(small: Any) -> Rows:
    return small.material(CUPID(), small.settings()).groups["forget"]


@pytest.mark.parametrize(("share", "count"), [(0.05, 1), (0.3, 2)])
def test_the_sharpest_facts_are_the_causal_part(small: Any, forget: Rows, share: float, count: int) -> None:
    """At least one: five percent of eight is none."""
    student = small.model()
    assert len(forget) == 8
    found = prepared(CUPID(share=share, perturbation=1e-2), student, forget)
    each = [plain(student, forget, row) for row in range(8)]
    order = sorted(range(8), key=lambda row: -each[row][1])[:count]
    assert found.sharpness == pytest.approx(sum(each[row][1] for row in order) / count, rel=1e-2)
    assert found.sharpness > 0
    worth = {}
    for name, direction in found.direction.items():
        gradients = torch.stack([each[row][0][name] for row in order])
        torch.testing.assert_close(direction, gradients.mean(0), rtol=1e-3, atol=1e-5)
        weight = student.model.get_parameter(name).detach()
        worth[name] = weight.pow(2) * gradients.pow(2).mean(0) / 2
    median = torch.cat([value.flatten() for value in worth.values()]).median()
    differ = sum(int((found.mask[name] != (worth[name] >= median)).sum()) for name in worth)
    total = sum(value.numel() for value in worth.values())
    assert differ < 0.002 * total
    assert sum(int(value.sum()) for value in found.mask.values()) == pytest.approx(total / 2, rel=0.01)


def test_measuring_leaves_the_model_as_it_was(small: Any, forget: Rows) -> None:
    """A frozen one too, as it is between two targets."""
    student = small.model()
    student.model.requires_grad_(False)
    before = {name: value.clone() for name, value in student.model.state_dict().items()}
    found = prepared(CUPID(), student, forget)
    assert all(torch.equal(value, before[name]) for name, value in student.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in student.model.parameters())
    assert all(parameter.grad is None for parameter in student.model.parameters())
    assert len(found.mask) == len(list(student.model.named_parameters())) - 1
    assert not any("embed_tokens" in name for name in found.mask)


def test_parts_of_a_step_give_nearly_the_step(small: Any) -> None:
    """In the loop; the rows of a step in one part or in two."""
    changes = []
    for accumulation in (1, 2):
        settings = small.settings(steps=1, accumulation=accumulation)
        student, _ = small.align(CUPID(), small.material(CUPID(), settings), settings)
        before = small.model().model.state_dict()
        changes.append(torch.cat([(v - before[n]).flatten() for n, v in student.model.state_dict().items()]))
    assert float(changes[0].norm()) > 0
    assert float(torch.nn.functional.cosine_similarity(changes[0], changes[1], dim=0)) > 0.99


def test_adapters_are_refused(small: Any) -> None:
    settings = small.settings(train="lora")
    with pytest.raises(UsageError, match=r"adapters have none; use \[alignment\] train = .own."):
        small.align(CUPID(), small.material(CUPID(), settings), settings)
