"""The world model: encoders, RSSM and decoders, and its loss (Eq. 10-11 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diwa_data.errors import DiwaError
from diwa_data.limits import drawn_back, executed_action
from diwa_data.spec import Spec, require_network_size
from diwa_learning.core.checkpoint import build, load_checkpoint
from diwa_learning.core.device import is_half
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.draws import Draws, draw
from diwa_learning.world_model.networks import (
    ImageDecoder,
    ImageEncoder,
    PerCamera,
    PrincipalComponents,
    dense,
    to_network,
)
from diwa_learning.world_model.replay import Batch
from diwa_learning.world_model.rssm import RSSM, TARGET, Observed, State, balanced_kl, entropy
from diwa_learning.world_model.slow_features import SlowFeatures

PIXELS = 64 * 64
"""Pixels that every camera's error counts as, so that a larger image is no more important."""
STATE_STD_FLOOR = 0.01
IMAGE_STD_FLOOR = 0.01
POSITION = slice(0, 3)
"""Where the hand's position stands in the state, metres."""
STATE_WIDTH = 400
"""Hidden units of the decoders of vectors."""


def vector_decoder(feature_dim: int, outputs: int) -> nn.Sequential:
    """(..., F) -> (..., outputs)."""
    return nn.Sequential(dense(feature_dim, STATE_WIDTH), nn.Linear(STATE_WIDTH, outputs))


@dataclass(frozen=True)
class WorldModelLoss:
    """Loss of one batch, means over B and T."""

    total: Tensor
    """beta * kl + image + weighted robot_state + weighted components; the only one with a gradient."""
    kl: Tensor
    """KL(posterior || prior), nats."""
    image: Tensor
    """Half the squared error summed over the pixels of all cameras, each as if it had 64x64."""
    robot_state: Tensor
    """Half the mean squared error of the state as it is decoded (`WorldModel.relative`); 0 without its decoder."""
    components: Tensor
    """Half the mean squared error of the images' principal components; 0 without them."""
    slow: Tensor
    """Half the mean squared error of the predicted slow features, in units of their change between two frames; 0
    without them."""
    posterior_entropy: Tensor
    """Nats, summed over categoricals."""


class WorldModel(nn.Module):
    """Encodes frames, steps the RSSM, decodes features. Action and state sizes come from `spec`.

    The state is the robot's; the hybrid variant (`scene_state`) has the scene state behind it. Images and state are
    normalised by the training data's statistics, which are part of the weights. Without decoders (`decodes` false) it
    filters, as on a robot, and neither learns nor dreams.
    """

    state_mean: Tensor
    state_std: Tensor
    null_action: Tensor
    """(A,) the action before the first frame of a sequence."""

    def __init__(self, config: WorldModelConfig, spec: Spec, decodes: bool = True):
        super().__init__()
        for camera in spec.cameras:
            require_network_size(camera)
        if config.scene_state and not spec.scene_state:
            raise DiwaError(f"robot {spec.robot!r} has no scene state: set world_model.scene_state to false")
        self.config, self.spec = config, spec
        self.max_lead = spec.limits.max_lead_pos if spec.limits else config.max_lead
        self.state_dim = spec.state_dim + len(spec.scene_state) * config.scene_state
        self._seen = slice(0 if config.robot_state else spec.state_dim, self.state_dim)
        sizes = {camera.name: camera.size for camera in spec.cameras}
        encoders = {name: ImageEncoder(config.depth, size) for name, size in sizes.items()}
        self.encoders = PerCamera(encoders)
        code_dim = 32 * config.depth
        self.fusion = dense(sum(encoder.output_dim for encoder in encoders.values()), code_dim)
        # A few numbers beside hundreds: each group counts as much as those from the first update on.
        component_dim, target_dim = config.image_components * len(sizes), 3 * config.target
        lag_dim = 3 * (config.target and config.robot_state)
        groups = [self._seen.stop - self._seen.start, component_dim, lag_dim, config.slow_features, target_dim]
        seen = code_dim + sum(groups)
        self.embed_dim = seen + (TARGET - target_dim) * config.target
        last = code_dim + groups[0] + component_dim
        self._components = slice(last - component_dim, last)
        self._pictures = slice(0, code_dim), self._components
        self.picture_dim = code_dim + component_dim
        told = spec.action if config.target else None
        self.rssm = RSSM(config.rssm, seen, spec.action_dim, told, config.slow_features)
        with torch.no_grad():
            for group in self.rssm.embed_in.weight[:, code_dim:].split(groups, dim=1):
                group *= (code_dim / max(group.shape[1], 1)) ** 0.5
        pixels = {name: 3 * math.prod(size) for name, size in sizes.items()}
        components = {name: PrincipalComponents(config.image_components, count) for name, count in pixels.items()}
        self.components = PerCamera(components if config.image_components else {})
        self.slow = SlowFeatures(config.slow_features, pixels) if config.slow_features else None
        self.decodes = decodes
        if decodes:
            feature_dim = self.rssm.feature_dim
            self.decoder_in = nn.Linear(feature_dim, code_dim)
            self.decoders = PerCamera({name: ImageDecoder(config.depth, size) for name, size in sizes.items()})
            self.state_decoder = vector_decoder(feature_dim, self.state_dim) if config.robot_state_weight else None
            self.component_decoder = vector_decoder(feature_dim, component_dim) if config.image_components else None
        for camera in spec.cameras:
            self.register_buffer(f"{camera.name}_mean", torch.zeros(*camera.size, 3))
            self.register_buffer(f"{camera.name}_std", torch.ones(()))
        self.register_buffer("state_mean", torch.zeros(self.state_dim))
        self.register_buffer("state_std", torch.ones(self.state_dim))
        self.register_buffer("null_action", torch.from_numpy(spec.action.null), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return self.null_action.device

    @property
    def feature_dim(self) -> int:
        """Length of `State.features`."""
        return self.rssm.feature_dim

    def set_state_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Normalise states by these (state_dim,) statistics of the training data; std is floored at 0.01."""
        self.state_mean.copy_(mean)
        self.state_std.copy_(std.clamp(min=STATE_STD_FLOOR))
        self.rssm.target_step.copy_(self.spec.action.max_pos / self.state_std[POSITION][: self.rssm.target_dim])

    def set_image_statistics(self, images: Mapping[str, Tensor]) -> None:
        """Encode and decode what differs from the mean of these frames, camera -> (N, H, W, 3) uint8."""
        for name, frames in images.items():
            pixels, (mean, std) = to_network(frames), self._statistics(name)
            mean.copy_(pixels.mean(0))
            std.copy_((pixels - mean).square().mean().sqrt().clamp(min=IMAGE_STD_FLOOR))
            if name in self.components:
                components = self.components[name]
                assert isinstance(components, PrincipalComponents)
                components.fit((pixels - mean) / std)

    def set_slow_features(self, frames: Mapping[str, Tensor], following: Mapping[str, Tensor]) -> None:
        """Find what is slow in these frames and those that follow each, camera -> (N, H, W, 3) uint8."""
        if self.slow is not None:
            self.slow.fit(frames, following)
            self.rssm.slow_step.copy_(self.slow.change)

    def normalise(self, state: Tensor) -> Tensor:
        """State (..., S) by the statistics of the training data."""
        return (state - self.state_mean) / self.state_std

    def relative(self, state: Tensor, target: Tensor) -> Tensor:
        """States (..., S) as they are decoded: normalised, and relative to the target if the model is told it.

        Then a hand's place counts in units of `max_lead` from that of the commanded pose (..., 9): where commands
        have put the target is known, and what is left of the hand's place are millimetres, not the width of a table.
        """
        state = self.normalise(state)
        return torch.cat([self._lag(state, target), state[..., POSITION.stop :]], -1) if self.config.target else state

    def _lag(self, state: Tensor, target: Tensor) -> Tensor:
        """Hand of normalised states (..., S) less the place of the commanded pose (..., 9), in units of `max_lead`."""
        hand = state[..., POSITION] * self.state_std[POSITION] + self.state_mean[POSITION]
        return (hand - target[..., POSITION]) / self.max_lead

    def embed(self, images: Mapping[str, Tensor], state: Tensor, target: Tensor) -> Tensor:
        """Frames -> embedding (B, ..., E).

        Camera -> (B, ..., H, W, 3) uint8, state (B, ..., S), commanded pose (B, ..., 9): metres, 6D rotation.
        """
        leading = state.shape[:-1]
        pixels = {
            name: to_network(images[name].flatten(end_dim=len(leading) - 1), *self._statistics(name))
            for name in self.encoders
        }
        codes = [encoder(pixels[name]) for name, encoder in self.encoders.items()]
        parts = [self.fusion(torch.cat(codes, -1)).unflatten(0, leading)]
        normalised = self.normalise(state)
        if self.config.robot_state or self.config.scene_state:
            parts.append(normalised[..., self._seen])
        parts += [project(pixels[name]).unflatten(0, leading) for name, project in self.components.items()]
        if self.config.target and self.config.robot_state:
            parts.append(self._lag(normalised, target))
        if self.slow is not None:
            frames = {name: images[name].flatten(end_dim=len(leading) - 1) for name in self.encoders}
            parts.append(self.slow(frames).unflatten(0, leading))
        if self.config.target:
            parts.append((target[..., POSITION] - self.state_mean[POSITION]) / self.state_std[POSITION])
            parts.append(target[..., POSITION.stop :])
        embed = torch.cat(parts, -1)
        assert embed.shape == (*leading, self.embed_dim), embed.shape
        return embed

    def seen_components(self, embeds: Tensor) -> Tensor:
        """The images' principal components (..., K) that embeddings (..., E) hold, those of all cameras."""
        return embeds[..., self._components].float()

    def pictures(self, embeds: Tensor) -> Tensor:
        """The part (..., P) of embeddings (..., E) that comes from the images alone, not from the robot's state."""
        return torch.cat([embeds[..., part] for part in self._pictures], -1).float()

    def decode(self, features: Tensor) -> dict[str, Tensor]:
        """Features (B, ..., F) -> camera -> (B, ..., H, W, 3) float32 in [-0.5, 0.5]."""
        leading = features.shape[:-1]
        images = self._reconstruct(features.flatten(end_dim=-2))
        return {
            name: image.float().clamp(-0.5, 0.5).permute(0, 2, 3, 1).unflatten(0, leading)
            for name, image in images.items()
        }

    def decode_state(self, state: State) -> Tensor:
        """Model states (..., ...) -> robot states (..., S) in their own units; needs `robot_state_weight` above 0."""
        assert self.state_decoder is not None, "this world model has no decoder of the state"
        decoded = self.state_decoder(state.features)
        robot = decoded * self.state_std + self.state_mean
        if not self.config.target:
            return robot
        hand = self.target_place(state) + decoded[..., POSITION] * self.max_lead
        return torch.cat([hand, robot[..., POSITION.stop :]], -1)

    def target_place(self, state: State) -> Tensor:
        """Where the commands have put the target (..., 3), metres."""
        return state.target[..., POSITION] * self.state_std[POSITION] + self.state_mean[POSITION]

    @torch.no_grad()
    def executed(self, state: State, action: Tensor) -> Tensor:
        """The part of an action (N, A) that the robot executes in `state`, within the limits of the recordings.

        Against something solid the hand stays behind and the target stops, or it would wind up. Where the limits are
        not known only the lead of the position has one; a model that is not told the target knows nothing of it.
        """
        if not self.config.target or self.state_decoder is None:
            return action
        place, hand = self.target_place(state), self.decode_state(state)
        if limits := self.spec.limits:
            target = torch.cat([place, state.target[..., POSITION.stop :]], -1)
            about = self.spec.action, self.spec.tick, limits
            if self.device.type == "cpu":  # on a few numbers an operation of NumPy takes half the time
                return torch.from_numpy(executed_action(np, action.numpy(), target.numpy(), hand.numpy(), *about))
            return executed_action(torch, action, target, hand, *about)
        step = self.spec.action.max_pos
        goal = drawn_back(torch, place + step * action[..., POSITION], hand[..., POSITION], self.max_lead)
        return torch.cat([((goal - place) / step).clamp(-1.0, 1.0), action[..., POSITION.stop :]], -1)

    def loss(self, batch: Batch, draws: Draws | None = None) -> WorldModelLoss:
        """Loss of a batch; padded frames do not count. `draws` are drawn here when None.

        With the draws of a larger batch, of which these are some rows: their part of its loss.
        """
        config = self.config
        draws = draw(batch.valid, config) if draws is None else draws
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_half(config.precision, self.device)):
            embeds = self.embed(batch.images, batch.state, batch.target)
            observed = self.rssm.observe(embeds, batch.previous_actions, draws.reset, draws.noise)
            image_loss = self._image_loss(observed.states.features, batch.images, draws)
            state_loss, component_loss, slow_loss = self._vector_losses(observed, embeds, batch, draws)
        prior, posterior = observed.prior_logits, observed.posterior_logits
        kl = (draws.weight * balanced_kl(posterior, prior, config.kl_balance)).sum()
        return WorldModelLoss(
            config.beta * kl
            + image_loss
            + config.robot_state_weight * state_loss
            + config.component_weight * component_loss
            + config.slow_weight * slow_loss,
            kl.detach(),
            image_loss.detach(),
            state_loss.detach(),
            component_loss.detach(),
            slow_loss.detach(),
            (draws.weight * entropy(posterior.detach())).sum(),
        )

    def _image_loss(self, features: Tensor, images: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """Half the squared error of the drawn frames, in float32; each stands for as many as its row has for one."""
        (rows, length), weight = draws.weight.shape, draws.weight
        features, images = features.flatten(0, 1), {name: image.flatten(0, 1) for name, image in images.items()}
        if draws.frames.shape[1] < length:
            drawn = weight.gather(1, draws.frames)
            weight = drawn * (weight.sum(1) / drawn.sum(1))[:, None]
            frames = (length * torch.arange(rows, device=features.device)[:, None] + draws.frames).flatten()
            features = features.index_select(0, frames)
            images = {name: image.index_select(0, frames) for name, image in images.items()}
        loss = features.new_zeros((), dtype=torch.float32)
        for name, image in self._reconstruct(features).items():
            with torch.autocast(features.device.type, enabled=False):
                target = to_network(images[name])
            errors = F.mse_loss(image, target, reduction="none").sum((1, 2, 3)) * (PIXELS / target[0, 0].numel())
            loss = loss + 0.5 * (errors * weight.flatten()).sum()
        return loss

    def _vector_losses(self, observed: Observed, embeds: Tensor, batch: Batch, draws: Draws) -> tuple[Tensor, ...]:
        """Half the mean squared errors of states, image components and slow features from posterior states (B, T).

        Those after 1 to I imagined steps from every I-th state are added. Imagination drifts where the prior's samples
        do; what they do to the hand and to the furniture can be learned without decoding images.
        """
        seen = [
            self.relative(batch.state, batch.target),
            self.seen_components(embeds).detach(),
            self.rssm.seen_slow(embeds).detach(),
        ]
        states, losses = observed.states, [draws.weight.new_zeros(()) for _ in seen]
        looks = [((*self._decode_vectors(states), observed.slow), seen, draws.weight)]
        starts, steps = draws.imagined_noise.shape[1:3]
        if starts:

            def ahead(part: Tensor) -> Tensor:
                """(B, T, ...) -> (B * S, I, ...): the frames after each start."""
                return part[:, 1 : 1 + starts * steps].unflatten(1, (starts, steps)).flatten(0, 1)

            begin = states[:, : starts * steps : steps].map(lambda part: part.flatten(0, 1))
            imagined = self.rssm.imagine(begin, ahead(batch.previous_actions), draws.imagined_noise.flatten(0, 1))
            weight = draws.imagined_weight.unflatten(1, (starts, steps)).flatten(0, 1)
            looks.append(((*self._decode_vectors(imagined), imagined.slow), [ahead(part) for part in seen], weight))
        units = 1.0, 1.0, self.rssm.slow_step
        for found, shown, weight in looks:
            for n, (mine, theirs) in enumerate(zip(found, shown, strict=True)):
                if mine is not None and mine.shape[-1]:
                    error = ((mine.float() - theirs) / units[n]).square().mean(-1)
                    losses[n] = losses[n] + 0.5 * (error * weight).sum()
        return tuple(losses)

    def _decode_vectors(self, states: State) -> tuple[Tensor | None, Tensor | None]:
        """Robot states and image components decoded from model states; None without a decoder."""
        features, decoders = states.features, (self.state_decoder, self.component_decoder)
        state, components = (decoder(features) if decoder is not None else None for decoder in decoders)
        return state, components

    def _reconstruct(self, features: Tensor) -> dict[str, Tensor]:
        """(N, F) -> camera -> (N, 3, H, W), unbounded."""
        code = self.decoder_in(features)
        images = {}
        for name, decoder in self.decoders.items():
            mean, std = self._statistics(name)
            images[name] = decoder(code).float() * std + mean
        return images

    def _statistics(self, camera: str) -> tuple[Tensor, Tensor]:
        """Mean image (3, H, W) and standard deviation (a number) of a camera, as pixels in [-0.5, 0.5]."""
        mean, std = self.get_buffer(f"{camera}_mean"), self.get_buffer(f"{camera}_std")
        return mean.permute(2, 0, 1), std  # in memory like the images, or the difference is slow


@dataclass(frozen=True)
class LoadedWorldModel:
    """A trained world model in evaluation mode, without gradients."""

    model: WorldModel
    spec: Spec
    hash: str
    """Hash of its weights, stored by everything that is trained on it."""


def load_world_model(path: Path, device: str | torch.device = "cpu", decodes: bool = True) -> LoadedWorldModel:
    """The world model of a checkpoint folder, ready to use.

    One that was packed for deployment has no decoders: `DiwaError`, unless `decodes` is false.
    """
    checkpoint = load_checkpoint(path, "world_model")
    whole = any(name.startswith("decoder") for name in checkpoint.weights)
    if decodes and not whole:
        raise DiwaError(
            f"{path} was packed for deployment and cannot dream: give the world model that it was made from"
        )
    config = checkpoint.config_as(WorldModelConfig)
    model = build(lambda: WorldModel(config, checkpoint.spec, decodes=whole), checkpoint.weights, path)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # else convolutions reorder every call
    return LoadedWorldModel(model.to(device).eval().requires_grad_(False), checkpoint.spec, checkpoint.hash)
