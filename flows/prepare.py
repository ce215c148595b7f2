"""From nothing to known and unknown latents: all that comes before a model is made to forget."""

from __future__ import annotations

from dataclasses import dataclass

from flows.config import Experiment
from storage.records import EntitySet, ForgetSet, LatentSelection, LatentStats, SaeRef, Testbed, World
from tasks.activations.task import extract_activations
from tasks.autoencoder.task import train_autoencoders
from tasks.entities.task import ask_model, choose_roles
from tasks.latents.task import measure_latents, select_latents
from tasks.testbed.task import make_world, pretrain


@dataclass(frozen=True)
class Subject:
    """Who is to be forgotten, by which model, in which world."""

    world: World
    testbed: Testbed
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
    world = make_world(experiment.world)
    testbed = pretrain(world, experiment.pretraining)
    entities = ask_model(testbed.base, world, experiment.labels)
    forget_set = choose_roles(world, entities, experiment.roles)
    return Subject(world, testbed, entities, forget_set)


def look_inside(subject: Subject, experiment: Experiment) -> Insight:
    """The base model's activations, sparse autoencoders of them, and the latents that carry knownness."""
    activations = extract_activations(subject.testbed.base, subject.world, subject.entities, experiment.activations)
    sae = train_autoencoders(activations, experiment.autoencoder)
    statistics = measure_latents(subject.world, activations, sae)
    selection = select_latents(statistics, subject.entities, subject.forget_set, experiment.latents)
    return Insight(sae, statistics, selection)
