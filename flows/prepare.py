"""From nothing to known and unknown latents: all that comes before a model is made to forget."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from flows.experiment import STATEMENTS, TESTBED, Experiment
from flows.models import model_at, placed
from storage.records import Answers, EntitySet, ForgetSet, LatentSelection, LatentStats, ModelRef, SaeRef, World
from tasks.activations.task import extract_activations
from tasks.autoencoder.task import adopt_autoencoders, pinned, train_autoencoders
from tasks.entities.task import ask_model, choose_roles, label_answers
from tasks.latents.task import measure_latents, select_latents
from tasks.sources.task import gather_world
from tasks.sources.task import pinned as pinned_facts
from tasks.statements.task import state_facts
from tasks.testbed.task import make_world, pretrain


@dataclass(frozen=True)
class Models:
    """The model that is made to forget, and its twin that never knew the candidates, where there is one."""

    base: ModelRef
    gold: ModelRef | None


@dataclass(frozen=True)
class Subject:
    """Who is to be forgotten, by which model, in which world."""

    world: World
    models: Models
    answers: Answers
    entities: EntitySet
    forget_set: ForgetSet


@dataclass(frozen=True)
class Insight:
    """Where in the network knowing shows."""

    sae: SaeRef
    statistics: LatentStats
    selection: LatentSelection


def prepare(experiment: Experiment) -> Subject:
    """A world, a model that knows it, and the part every entity plays."""
    if experiment.model.name == TESTBED:
        world = make_world(experiment.world)
        testbed = pretrain(world, experiment.pretraining)
        models = Models(testbed.base, testbed.gold)
    else:
        # Nobody has a twin of a model that was not made here.
        models = Models(_chosen_model(experiment), None)
        world = _world(models.base, experiment)
    answers = ask_model(models.base, world, experiment.asking)
    entities = label_answers(world, answers, experiment.labels)
    forget_set = choose_roles(world, entities, experiment.roles)
    return Subject(world, models, answers, entities, forget_set)


def _chosen_model(experiment: Experiment) -> ModelRef:
    chosen = experiment.model
    return placed(dataclasses.replace(model_at(chosen.name), dtype=chosen.dtype, chat=chosen.chat), experiment)


def _world(model: ModelRef, experiment: Experiment) -> World:
    """The facts of the source that the experiment names, which may be the model itself; without one, the testbed's."""
    if not experiment.data.source:
        return make_world(experiment.world)
    settings, content = pinned_facts(experiment.data)
    if settings.source == STATEMENTS:
        return gather_world(settings, content, state_facts(model, experiment.statements))
    return gather_world(settings, content)


def look_inside(subject: Subject, experiment: Experiment) -> Insight:
    """The base model's activations, sparse autoencoders of them, and the latents that carry knownness."""
    activations = extract_activations(subject.models.base, subject.world, subject.answers, experiment.activations)
    if experiment.autoencoder.sources:
        sources = pinned(experiment.autoencoder.sources)
        sae = adopt_autoencoders(subject.models.base, subject.world, sources, experiment.autoencoder)
    else:
        sae = train_autoencoders(activations, experiment.autoencoder)
    statistics = measure_latents(subject.world, activations, sae)
    selection = select_latents(statistics, subject.entities, subject.forget_set, experiment.latents)
    return Insight(sae, statistics, selection)
