"""What training steps log, added up on the device."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor
from torchmetrics import Metric

from solo_bam.core import collectives
from solo_bam.train.lightning_state import logs_this_step


class _Asked(NamedTuple):
    """How a value was logged."""

    prog_bar: bool
    logger: bool | None
    forked: bool  # as ``name_step`` and ``name_epoch``


class EpochMeans(pl.Callback):
    """Stands between the training steps' ``log`` and Lightning's, which takes the host 0.4 ms for each value and step.

    The values of a step become one sum on the device. Lightning gets those of the steps that the loggers see and, at
    the epoch's end, the means over its steps, by the names that it would give them itself. Both are means over the
    processes, which log the same names. What is no mean (a torchmetrics metric, another ``reduce_fx``) is Lightning's.

    It is the first callback, so that the others find an epoch's means in ``trainer.callback_metrics``.
    """

    def __init__(self) -> None:
        self._in_step = self._due = False
        self._asked: dict[str, _Asked] = {}
        self._now: dict[str, Any] = {}
        self._latest: tuple[tuple[str, ...], Tensor] = ((), torch.empty(0))
        self._of_steps: dict[str, Any] = {}  # the last values of what is logged by the step alone
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}  # names -> sums (names,) over so many steps

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._lightnings = pl_module.log
        vars(pl_module)["log"] = self._log  # log_dict calls it, too

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        vars(pl_module).pop("log", None)

    # --------------------------------------------------------------------------------------- a step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._in_step, self._due = True, logs_this_step(trainer)

    def _log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: Any = "mean",
        **more: Any,
    ) -> None:
        """:meth:`lightning.pytorch.LightningModule.log`."""
        averaged = self._in_step and reduce_fx == "mean" and not isinstance(value, Metric)
        if averaged and on_epoch:
            self._now[name] = value
            self._asked[name] = _Asked(prog_bar, logger, on_step is not False)
            return
        if averaged:
            self._of_steps[name] = value
        if self._due or not averaged:
            more |= {"on_step": on_step, "on_epoch": on_epoch, "reduce_fx": reduce_fx}
            self._lightnings(name, value, prog_bar=prog_bar, logger=logger, **more)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if not self._now:
            return
        names = tuple(self._now)
        values = torch.stack([_scalar(value, pl_module.device) for value in self._now.values()])
        self._now, self._latest = {}, (names, values)
        total, steps = self._sums.get(names, (0.0, 0))
        self._sums[names] = values + total, steps + 1
        if self._due:
            self._hand_over_step(names, collectives.mean(values))

    def _hand_over_step(self, names: tuple[str, ...], values: Tensor) -> None:
        for name, value in zip(names, values):
            prog_bar, logger, forked = self._asked[name]
            if forked:
                self._lightnings(f"{name}_step", value, prog_bar, logger, on_step=True, on_epoch=False)

    def on_validation_start(self, *_: Any) -> None:
        self._in_step = False

    def latest(self, name: str) -> Tensor | None:
        """What this process logged by that name in the last step."""
        names, values = self._latest
        return values[names.index(name)] if name in names else None

    # ------------------------------------------------------------------------------------- an epoch

    def on_train_epoch_end(self, *_: Any) -> None:
        self._in_step = False
        for name, mean in self._means().items():
            prog_bar, logger, forked = self._asked[name]
            if forked:
                self._lightnings(f"{name}_epoch", mean, prog_bar, logger)
                self._lightnings(name, mean, logger=False)  # in callback_metrics
            else:
                self._lightnings(name, mean, prog_bar, logger)
        self._sums = {}
        self._hand_over_last()

    def _hand_over_last(self) -> None:
        """The last step's values, which ``callback_metrics`` keeps."""
        names, values = self._latest
        of_steps = {f"{n}_step": v for n, v in zip(names, collectives.mean(values)) if self._asked[n].forked}
        for name, value in {**of_steps, **self._of_steps}.items():
            self._lightnings(name, value, logger=False)

    def _means(self) -> dict[str, Tensor]:
        """Over the steps that logged a name, and over the processes."""
        sums: dict[str, Tensor | float] = {}
        steps: dict[str, int] = {}
        for names, (total, count) in self._sums.items():
            for name, value in zip(names, collectives.mean(total)):
                sums[name], steps[name] = sums.get(name, 0.0) + value, steps.get(name, 0) + count
        return {name: torch.as_tensor(total / steps[name]) for name, total in sums.items()}

    # --------------------------------------------------------------------------------- a checkpoint

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """In mid-epoch, the sums of each process; all take part."""
        if self._sums:
            here = [[list(names), total.tolist(), steps] for names, (total, steps) in self._sums.items()]
            asked = {name: list(how) for name, how in self._asked.items()}
            checkpoint["epoch_means"] = {"asked": asked, "sums": collectives.gather_objects(here)}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on adding up where the checkpoint was saved."""
        if kept := checkpoint.get("epoch_means"):
            self._asked = {name: _Asked(*how) for name, how in kept["asked"].items()}
            for names, total, steps in kept["sums"][trainer.global_rank]:
                self._sums[tuple(names)] = torch.tensor(total, device=pl_module.device), steps


def _scalar(value: Any, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().float().reshape(()).to(device)  # a method may log a tensor of the CPU
    return torch.full((), float(value), device=device)
