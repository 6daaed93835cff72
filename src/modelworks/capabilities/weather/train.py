"""Training: climate, ridge regression, networks one after another, their blend; resumable after every epoch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from modelworks.capabilities.weather.grid.grids import Floats, Grids, Times
from modelworks.capabilities.weather.grid.handshake import agreed
from modelworks.capabilities.weather.grid.reading import filled, read
from modelworks.capabilities.weather.model.climate import Climate, area_weights
from modelworks.capabilities.weather.model.forecaster import Extras, Forecaster, Shape, roll_anomalies
from modelworks.capabilities.weather.model.network import UNet
from modelworks.capabilities.weather.model.ridge import Ridge
from modelworks.capabilities.weather.schemas import TrainParams
from modelworks.contract.errors import InvalidData
from modelworks.contract.run import Run

_WARMUP_STEPS = 100
#: Patterns of errors that ensembles are drawn from, at most.
_ERROR_PATTERNS = 48
_STATE, _TENSORS = "state.json", "state.safetensors"


@dataclass(slots=True)
class _Data:
    """States in anomalies, with their times."""

    states: Floats
    times: Times

    def starts(self, shape: Shape, blocks: int = 1) -> NDArray[np.intp]:
        """The last known states of forecasts that have a history before them and so many blocks after them."""
        return np.arange(shape.history - 1, len(self.states) - shape.block * blocks)

    def histories(self, shape: Shape, starts: NDArray[np.intp]) -> Floats:
        return np.stack([self.states[at - shape.history + 1 : at + 1] for at in starts])

    def futures(self, shape: Shape, starts: NDArray[np.intp], blocks: int = 1) -> Floats:
        return np.stack([self.states[at + 1 : at + 1 + shape.block * blocks] for at in starts])


def train(run: Run, params: TrainParams) -> None:
    """Train on the grids of role "train"; choices are made on those of role "validation", or on the last part of "train".

    Raises:
        InvalidData: the grids cannot be read, do not agree, or are too few.
        Cancelled: the user has asked to stop.
    """
    if params.num_threads is not None:
        torch.set_num_threads(params.num_threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_grids, valid_grids = _grids(run, params)
    shape = Shape(
        train_grids.channels,
        train_grids.latitude_h,
        train_grids.longitude_w,
        train_grids.step_hours,
        params.history,
        params.block,
        params.width,
        params.depth,
        dict(train_grids.kinds),
    )
    climate = Climate.fitted(train_grids.values_tchw, train_grids.times_t)
    learnt = _Data(climate.anomaly(train_grids.values_tchw, train_grids.times_t), train_grids.times_t)
    valid = _Data(climate.anomaly(valid_grids.values_tchw, valid_grids.times_t), valid_grids.times_t)
    ridge = Ridge.fitted(
        learnt.states, valid.states, shape.latitude_h, eofs=params.eofs, history=params.history, block=params.block
    )
    constants = {name: each for name, each in train_grids.constants.items() if np.isfinite(each).all()}
    school = _School(run, params, shape, learnt, valid, constants, ridge, device)
    networks = school.networks()
    forecaster = _put_together(shape, climate, ridge, networks, constants, learnt, valid)
    folder = run.workdir / "model"
    forecaster.save(folder)
    metrics = school.told | _skill(forecaster, valid)
    notes = {"notes": list(train_grids.notes), "networks": len(networks), "stride": forecaster.stride}
    run.save(folder, kind="model", metadata={"task": "weather-forecast", "level": params.level, "metrics": metrics, **notes})


def _grids(run: Run, params: TrainParams) -> tuple[Grids, Grids]:
    """What is learned from, and what choices are made on."""
    grids = filled(read(run.dataset("train").path, channels=params.channels), params.max_missing)
    # Refuses uneven times.
    hours = grids.step_hours
    if run.has_input("validation"):
        further = filled(read(run.dataset("validation").path, channels=grids.channels), params.max_missing)
        further = agreed(further, grids.channels, grids.latitude_h, grids.longitude_w, hours, grids.kinds)
    else:
        cut = round(len(grids.times_t) * (1 - params.validation_share))
        grids, further = grids.between(0, cut), grids.between(cut, len(grids.times_t))
    needed = params.history + 2 * params.block
    for name, each in (("to learn from", grids), ("for validation", further)):
        if len(each.times_t) < needed + 8:
            raise InvalidData(
                f"There are {len(each.times_t)} states {name}; with a history of {params.history} and blocks of "
                f"{params.block} it takes {needed + 8}.",
                hint="Give more states; a season's worth is the least that makes sense.",
                code="too_few_times",
                param="time",
            )
    return grids, further


class _School:
    """Trains the networks one after another."""

    def __init__(
        self,
        run: Run,
        params: TrainParams,
        shape: Shape,
        learnt: _Data,
        valid: _Data,
        constants: dict[str, Floats],
        ridge: Ridge,
        device: torch.device,
    ) -> None:
        self.run, self.params, self.shape = run, params, shape
        self.learnt, self.valid, self.device = learnt, valid, device
        self.is_low = params.precision == "bf16" and _multiplies_bf16(device)
        self.extras = Extras(shape, constants)
        starts = valid.starts(shape)
        truth = valid.futures(shape, starts)
        areas = area_weights(shape.latitude_h)[:, None]
        line = np.stack([ridge(each) for each in valid.histories(shape, starts)])
        of_lead = (np.square(line - truth) * areas).mean(axis=(0, 2, 3, 4))
        # Each lead time counts alike, measured by how far the ridge regression errs there.
        weights = (1 / of_lead)[None, :, None, None, None] * areas
        self.weights = torch.from_numpy((weights / weights.mean()).astype(np.float32)).to(device)
        self.told = {"ridge_loss": float((np.square(line - truth) * (weights / weights.mean())).mean())}
        self.total = params.members * (params.epochs + params.rollout_epochs)

    def networks(self) -> list[UNet]:
        """All of them, with the weights that were best on the validation states."""
        finished, going, epoch = self._resumed()
        for member in range(len(finished), self.params.members):
            pupil = going or _Pupil(self, member)
            going = None
            for each in range(epoch, self.params.epochs + self.params.rollout_epochs):
                train_loss, valid_loss = pupil.learn(each)
                done = member * (self.params.epochs + self.params.rollout_epochs) + each + 1
                self.run.log(done, loss=train_loss, validation_loss=valid_loss, **self.told)
                self.run.progress(done, self.total, "epochs")
                self._keep(finished, pupil, each + 1)
                self.run.raise_if_cancelled()
            epoch = 0
            finished.append(pupil.best)
        made = []
        for weights in finished:
            network = self.shape.network(self.extras.count)
            network.load_state_dict(weights)
            made.append(network)
        return made

    def _keep(self, finished: list[dict[str, torch.Tensor]], pupil: _Pupil, epoch: int) -> None:
        folder = self.run.workdir / "checkpoint"
        folder.mkdir(exist_ok=True)
        tensors = {f"done.{index}.{name}": each for index, one in enumerate(finished) for name, each in one.items()}
        tensors |= pupil.tensors()
        save_file({name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()}, folder / _TENSORS)
        state = {"finished": len(finished), "epoch": epoch, "step": pupil.step, "best_loss": pupil.best_loss}
        (folder / _STATE).write_text(json.dumps(state), "utf-8")
        self.run.checkpoint(folder)

    def _resumed(self) -> tuple[list[dict[str, torch.Tensor]], _Pupil | None, int]:
        folder = self.run.resume_from
        if folder is None:
            return [], None, 0
        state = json.loads((folder / _STATE).read_text("utf-8"))
        tensors = load_file(folder / _TENSORS)
        finished = [_under(tensors, f"done.{index}.") for index in range(int(state["finished"]))]
        pupil = _Pupil(self, len(finished))
        pupil.restore(tensors, int(state["step"]), float(state["best_loss"]))
        return finished, pupil, int(state["epoch"])


class _Pupil:
    """One network with its optimiser, the slow copy of its weights, and the best of these."""

    def __init__(self, school: _School, member: int) -> None:
        self.school, self.member, self.step = school, member, 0
        torch.manual_seed(school.run.seed * 1009 + member)
        self.network = school.shape.network(school.extras.count, school.params.dropout)
        self.network.to(school.device, memory_format=torch.channels_last)
        matrices = [each for each in self.network.parameters() if each.ndim > 1]
        vectors = [each for each in self.network.parameters() if each.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": school.params.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=school.params.learning_rate)
        self.slow = {name: each.detach().clone() for name, each in self.network.state_dict().items()}
        self.best, self.best_loss = {name: each.cpu().clone() for name, each in self.slow.items()}, math.inf

    def learn(self, epoch: int) -> tuple[float, float]:
        """One epoch; the losses on what was learned from and on the validation states."""
        school, params = self.school, self.school.params
        blocks = 2 if epoch >= params.epochs else 1
        rng = np.random.default_rng((school.run.seed, self.member, epoch))
        torch.manual_seed(int(rng.integers(1 << 62)))
        starts = rng.permutation(school.learnt.starts(school.shape, blocks))
        per_epoch = max(1, len(starts) // params.batch_size)
        total = per_epoch * (params.epochs + params.rollout_epochs)
        self.network.train()
        losses = []
        for index in range(per_epoch):
            for group in self.optimizer.param_groups:
                group["lr"] = params.learning_rate * _rate(self.step, total)
            losses.append(self._step(starts[index * params.batch_size : (index + 1) * params.batch_size], blocks))
            if index % 32 == 0:
                school.run.raise_if_cancelled()
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):
            raise InvalidData(
                f"The loss is no number after {self.step} steps.", hint="Lower the learning rate.", param="learning_rate"
            )
        valid_loss = self._measure()
        if valid_loss < self.best_loss:
            self.best, self.best_loss = {name: each.cpu().clone() for name, each in self.slow.items()}, valid_loss
        return loss, valid_loss

    def _step(self, starts: NDArray[np.intp], blocks: int) -> torch.Tensor:
        school, params, shape = self.school, self.school.params, self.school.shape
        history = torch.from_numpy(school.learnt.histories(shape, starts)).to(school.device)
        truth = torch.from_numpy(school.learnt.futures(shape, starts, blocks)).to(school.device)
        loss = torch.zeros((), device=school.device)
        for block in range(blocks):
            times = school.learnt.times[starts + block * shape.block]
            with torch.autocast(school.device.type, torch.bfloat16, enabled=school.is_low):
                found = self.network(history, school.extras.at(times).to(school.device))
            found = found.float()
            part = truth[:, block * shape.block : (block + 1) * shape.block]
            loss = loss + (torch.square(found - part) * school.weights).mean() / (1 + block)
            history = torch.cat([history, found], dim=1)[:, -shape.history :]
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), params.max_grad_norm)
        self.optimizer.step()
        self.step += 1
        # Young averages forget faster, or they would remember the first weights for ever.
        keep = min(params.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, each in self.network.state_dict().items():
                self.slow[name].lerp_(each, 1 - keep)
        return loss.detach()

    def _measure(self) -> float:
        school, shape = self.school, self.school.shape
        fast = {name: each.clone() for name, each in self.network.state_dict().items()}
        self.network.load_state_dict(self.slow)
        self.network.eval()
        starts, total = school.valid.starts(shape), 0.0
        with torch.inference_mode():
            for first in range(0, len(starts), 64):
                part = starts[first : first + 64]
                history = torch.from_numpy(school.valid.histories(shape, part)).to(school.device)
                truth = torch.from_numpy(school.valid.futures(shape, part)).to(school.device)
                found = self.network(history, school.extras.at(school.valid.times[part]).to(school.device))
                total += float((torch.square(found - truth) * school.weights).mean()) * len(part)
        self.network.load_state_dict(fast)
        return total / len(starts)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps."""
        found: dict[str, torch.Tensor] = {}
        for kind, weights in (("network", self.network.state_dict()), ("slow", self.slow), ("best", self.best)):
            found |= {f"{kind}.{name}": each for name, each in weights.items()}
        for group, one in enumerate(self.optimizer.param_groups):
            for index, each in enumerate(one["params"]):
                for name, value in self.optimizer.state[each].items():
                    found[f"optimizer.{group}.{index}.{name}"] = torch.as_tensor(value)
        return found

    def restore(self, tensors: dict[str, torch.Tensor], step: int, best_loss: float) -> None:
        """Go on from a checkpoint."""
        self.step, self.best_loss = step, best_loss
        self.network.load_state_dict(_under(tensors, "network."))
        for name, each in _under(tensors, "slow.").items():
            self.slow[name].copy_(each)
        self.best = _under(tensors, "best.")
        for group, one in enumerate(self.optimizer.param_groups):
            for index, each in enumerate(one["params"]):
                kept = _under(tensors, f"optimizer.{group}.{index}.")
                self.optimizer.state[each] = {
                    name: value.clone() if name == "step" else value.to(each.device).clone(memory_format=torch.preserve_format)
                    for name, value in kept.items()
                }


def _multiplies_bf16(device: torch.device) -> bool:
    """Whether bf16 is fast there: processors without AVX-512 or AMX multiply it number by number."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _rate(step: int, total: int) -> float:
    """Linear warm-up, then half a cosine."""
    return min(1.0, (step + 1) / min(_WARMUP_STEPS, max(1, total // 10))) * 0.5 * (1 + math.cos(math.pi * step / total))


def _under(tensors: dict[str, torch.Tensor], mark: str) -> dict[str, torch.Tensor]:
    return {name[len(mark) :]: each for name, each in tensors.items() if name.startswith(mark)}


def _put_together(
    shape: Shape,
    climate: Climate,
    ridge: Ridge,
    networks: list[UNet],
    constants: dict[str, Floats],
    learnt: _Data,
    valid: _Data,
) -> Forecaster:
    """Blend by least squares on the validation states, choose the stride there, and keep the patterns of the errors."""
    even = np.zeros((2, shape.block, len(shape.channels)), np.float32)
    even[0] = 1
    nothing = np.zeros((0, shape.block, len(shape.channels), len(shape.latitude_h), len(shape.longitude_w)), np.float32)
    made = Forecaster(shape, climate, ridge, networks, constants, even, shape.block, nothing, _damping(learnt, shape.block))
    starts = valid.starts(shape)
    histories, truth = valid.histories(shape, starts), valid.futures(shape, starts)
    parts = [starts[at : at + 64] for at in range(0, len(starts), 64)]
    ours = np.concatenate([made.networks_block(valid.histories(shape, part), valid.times[part]) for part in parts])
    line = np.stack([ridge(each) for each in histories])
    areas = area_weights(shape.latitude_h)[:, None]
    for lead in range(shape.block):
        for channel in range(len(shape.channels)):
            pair = np.stack([(one[:, lead, channel] * np.sqrt(areas)).ravel() for one in (ours, line)], axis=1)
            wanted = (truth[:, lead, channel] * np.sqrt(areas)).ravel()
            made.blend_2lc[:, lead, channel] = np.linalg.lstsq(pair, wanted, rcond=None)[0]
    net_lc, ridge_lc = made.blend_2lc[:, None, :, :, None, None]
    made.errors_klchw = _error_patterns(truth - (net_lc * ours + ridge_lc * line))
    made.taken = min((shape.block, 1), key=lambda stride: _rolled_error(made, valid, stride))
    return made


def _error_patterns(errors_blchw: Floats) -> Floats:
    """Leading patterns, scaled so that draws have the errors' whole variance."""
    flat = (errors_blchw - errors_blchw.mean(axis=0)).reshape(len(errors_blchw), -1) / math.sqrt(len(errors_blchw) - 1)
    left, values, _ = np.linalg.svd(flat @ flat.T, hermitian=True)
    count = min(_ERROR_PATTERNS, len(values) - 1)
    patterns = left[:, :count].T @ flat
    patterns *= np.sqrt(values.sum() / values[:count].sum())
    return np.asarray(patterns.reshape(count, *errors_blchw.shape[1:]), np.float32)


def _rolled_error(forecaster: Forecaster, valid: _Data, stride: int) -> float:
    """The mean square error over two blocks on every fifth validation start, taking so many steps of each application."""
    shape = forecaster.shape
    starts = valid.starts(shape, 2)[::5]
    truth = valid.futures(shape, starts, 2)
    areas = area_weights(shape.latitude_h)[:, None]
    rolled = roll_anomalies(
        replace(forecaster, taken=stride), valid.histories(shape, starts), valid.times[starts], 2 * shape.block
    )
    return sum(float((np.square(found - truth[:, lead]) * areas).mean()) for lead, found in enumerate(rolled))


def _damping(learnt: _Data, block: int) -> Floats:
    """The regression through the origin of a point's anomaly on its own, some steps before."""
    length = np.maximum(np.square(learnt.states).sum(axis=0), 1e-12)
    return np.stack([(learnt.states[lead:] * learnt.states[:-lead]).sum(axis=0) / length for lead in range(1, block + 1)])


def _skill(forecaster: Forecaster, valid: _Data) -> dict[str, Any]:
    """Root mean square errors on the validation states, in the channels' units, by lead."""
    shape = forecaster.shape
    starts = valid.starts(shape)
    found = forecaster.block_anomalies(valid.histories(shape, starts), valid.times[starts])
    squares = np.square(found - valid.futures(shape, starts)) * area_weights(shape.latitude_h)[:, None]
    rmse_lc = np.sqrt(squares.mean(axis=(0, 3, 4))) * forecaster.climate.scale_c
    return {
        f"validation_rmse_{channel}_{lead + 1}": float(rmse_lc[lead, index])
        for index, channel in enumerate(shape.channels)
        for lead in range(shape.block)
    }
