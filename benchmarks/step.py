"""Whole training steps: images per second of BAM and of solo-learn's methods, and where BAM's step goes.

    python -m benchmarks.step [--tiny] [--cases NAME …] [--methods NAME …] [--batch 64] [--device cpu] [--precision 32]
                              [--compile] [--heads HIDDEN OUTPUT] [--threads 2] [--repeats 5] [--out FILE.json]

A step is forward, loss, backward, optimiser and the teacher's update, on crops that are in the device's memory already;
logging is left out. All methods have the same backbone, crops, batch and optimiser (AdamW), and the heads of their
recipes unless ``--heads`` says otherwise; solo-learn's have solo-bam's mends, of which one makes the teacher's update
faster. *Crop by crop*: the same method with a forward for each crop, as in solo-learn's own step. *Loss*: forward and
backward of it alone. The case ``empty`` is a network without layers: the processor time of all that is beside network,
loss and optimiser in a run (``benchmarks.beside``; with one thread).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch

import solo_bam.methods.views as views_module
from benchmarks.beside import beside
from benchmarks.timing import machine, markdown, ratio, side_by_side, told, write
from solo_bam.config import Recipe, load_recipe
from solo_bam.config.resolve import resolve
from solo_bam.config.schema import Augmentation
from solo_bam.core import hardware
from solo_bam.train.doctor import work
from solo_bam.train.performance import compile_networks
from solo_bam.train.pretrain import build_model

METHODS = ("bam", "bam_momentum", "simclr", "byol", "dino")


class Case(NamedTuple):
    """Recipes of a folder with another backbone; sides of large and small crops."""

    recipes: str
    backbone: str
    large: int
    small: int


CASES = {
    "ResNet-18": Case("cifar", "resnet18", 32, 16),
    "ViT-S/16": Case("imagenet-100", "vit_small", 224, 96),
}
EMPTY = "empty"
TINY = {"tiny": Case("digits", "test_resnet", 16, 8)}


class Setting(NamedTuple):
    """What all steps of a run of the benchmark share."""

    batch: int
    device: str
    precision: str
    compiled: bool
    heads: tuple[int, int] | None = None

    def autocast(self) -> AbstractContextManager[Any]:
        """As Lightning's precision plugins have it."""
        if self.precision == "32":
            return nullcontext()
        return torch.autocast(self.device, dtype=torch.bfloat16)


def recipe_of(case: Case, method: str, small_crops: int, setting: Setting) -> Recipe:
    """The method's recipe with the case's backbone and crops, and AdamW."""
    recipe = load_recipe(f"{case.recipes}/{method}", [f"accelerator={setting.device}"])
    recipe.backbone.name = case.backbone
    recipe.augmentations = [Augmentation(crop_size=case.large, num_crops=2)]
    if small_crops:
        recipe.augmentations.append(Augmentation(crop_size=case.small, num_crops=small_crops))
    recipe.optimizer.name, recipe.optimizer.kwargs = "adamw", {}
    if setting.heads is not None:
        recipe.method_kwargs |= dict(zip(("proj_hidden_dim", "proj_output_dim"), setting.heads))
    recipe.optimizer.lr, recipe.optimizer.batch_size = 1e-4, setting.batch
    recipe.scheduler.min_lr, recipe.knn_eval.enabled, recipe.sync_batchnorm = 0.0, False, False
    return recipe


def model_of(recipe: Recipe, setting: Setting) -> pl.LightningModule:
    """The method as a run would build it, on the device."""
    torch.manual_seed(0)
    cfg = resolve(recipe, num_classes=100, has_val=True, world_size=1)
    devices = hardware.Devices(setting.device, 1, 1)
    model = build_model(recipe, cfg, devices).to(setting.device, memory_format=torch.channels_last)
    if setting.compiled:
        compile_networks(model)
    return model


def batch_of(recipe: Recipe, setting: Setting) -> list[Any]:
    """Random crops in the device's memory."""
    sides = [a.crop_size for a in recipe.augmentations for _ in range(a.num_crops)]
    crops = [torch.randn(setting.batch, 3, side, side, device=setting.device) for side in sides]
    labels = torch.arange(setting.batch, device=setting.device) % 100
    return [torch.arange(setting.batch, device=setting.device), crops, labels]


def step_of(model: Any, batch: list[Any], setting: Setting) -> Callable[[], None]:
    """One training step, without the Trainer and without logging."""
    return work.step_of(model, batch, setting.autocast)


def crop_by_crop(step: Callable[[], None]) -> Callable[[], None]:
    """The same step with a forward for each crop."""

    def run() -> None:
        ordinary = views_module.by_size
        views_module.by_size = lambda crops: crops
        try:
            step()
        finally:
            views_module.by_size = ordinary

    return run


def loss_of(model: Any, setting: Setting) -> Callable[[], None]:
    """Forward and backward of BAM's loss with its statistics, on projections of the step's shape and precision."""
    dtype = torch.float32 if setting.precision == "32" else torch.bfloat16
    rows, width = model.num_crops * setting.batch, model.options.proj_output_dim
    z = torch.randn(rows, width, device=setting.device, dtype=dtype, requires_grad=True)

    def run() -> None:
        z.grad = None
        model.loss_fn.with_statistics(z)[0].backward()

    return run


def measure(name: str, case: Case, setting: Setting, repeats: int, methods: Sequence[str] = METHODS) -> dict[str, Any]:
    """Seconds of every step: of the methods on two crops, of BAM's 2 + 6 crops both ways, of its loss."""
    recipes = {method: recipe_of(case, method, 0, setting) for method in methods}
    batch = batch_of(next(iter(recipes.values())), setting)
    models = {method: model_of(recipe, setting) for method, recipe in recipes.items()}
    functions = {method: step_of(model, batch, setting) for method, model in models.items()}
    if "bam" in models:
        functions["loss"] = loss_of(models["bam"], setting)
    seconds = side_by_side(functions, repeats, setting.device)
    del functions, models

    multi = {method: recipe_of(case, method, 6, setting) for method in methods if method in METHODS[:2]}
    crops = batch_of(next(iter(multi.values())), setting) if multi else []
    steps = {method: step_of(model_of(recipe, setting), crops, setting) for method, recipe in multi.items()}
    steps |= {f"{method}, crop by crop": crop_by_crop(step) for method, step in list(steps.items())}
    several = side_by_side(steps, repeats, setting.device)
    return {"case": name, "setting": setting._asdict(), "seconds": seconds, "multi-crop seconds": several}


def empty(methods: Sequence[str], setting: Setting, rounds: int, tiny: bool) -> dict[str, dict[str, list[float]]]:
    """Of each method, :func:`benchmarks.beside.beside`."""
    steps = 10 if tiny else 150

    def alone(model: Any, batch: list[Any]) -> Callable[[], None]:
        return step_of(model, batch, setting)

    return {method: beside(method, setting.device, alone, rounds, steps) for method in methods}


def empty_rows(methods: Sequence[str], found: dict[str, dict[str, list[float]]]) -> list[dict[str, str]]:
    """Milliseconds beside the network, a line per method: medians over rounds, lowest and highest."""
    return [
        {"method": method, **{what: _milliseconds(times) for what, times in found[method].items()}}
        for method in methods
    ]


def _milliseconds(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.2f} ms ({min(times):.2f}–{max(times):.2f})"


def rows(found: dict[str, Any]) -> list[dict[str, str]]:
    """A line per method: images per second, and the others' time over BAM's."""
    seconds, batch = found["seconds"], found["setting"]["batch"]
    return [
        {
            "case": found["case"],
            "method": method,
            "images per second": f"{batch / statistics.median(seconds[method]):,.1f}",
            **{
                f"{ours} faster by": told(ratio(seconds[method], seconds[ours]))
                for ours in METHODS[:2]
                if ours in seconds
            },
        }
        for method in seconds
        if method != "loss"
    ]


def further_rows(found: dict[str, Any]) -> list[dict[str, str]]:
    """What else is asked of a step of BAM."""
    several, seconds = found["multi-crop seconds"], found["seconds"]
    measured = {
        f"{method}, 2 + 6 crops: crop by crop / by size": ratio(several[f"{method}, crop by crop"], several[method])
        for method in METHODS[:2]
        if method in several
    }
    if "loss" in seconds:
        measured["bam, 2 crops: loss / step"] = ratio(seconds["loss"], seconds["bam"])
    return [
        {"case": found["case"], "what": what, "ratio": f"{each['median']:.3f} ({each['low']:.3f}–{each['high']:.3f})"}
        for what, each in measured.items()
    ]


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to see that it runs")
    parser.add_argument("--cases", nargs="*", choices=[*CASES, EMPTY], default=list(CASES))
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("32", "bf16-mixed"), default="32")
    parser.add_argument("--compile", action="store_true", help="with performance.compile=True")
    parser.add_argument("--heads", type=int, nargs=2, metavar=("HIDDEN", "OUTPUT"), help="widths of all projectors")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    setting = Setting(
        batch=8 if options.tiny else options.batch,
        device=options.device,
        precision=options.precision,
        compiled=options.compile,
        heads=options.heads and tuple(options.heads),
    )
    results: list[dict[str, Any]] = []
    cases = TINY if options.tiny else {name: CASES[name] for name in options.cases if name != EMPTY}
    for name, case in cases.items():
        results.append(measure(name, case, setting, options.repeats, options.methods))
        for table in (rows(results[-1]), further_rows(results[-1])):
            print(markdown(table) + "\n", flush=True)
    if options.tiny or EMPTY in options.cases:
        results.append({"case": EMPTY, "milliseconds": empty(options.methods, setting, options.repeats, options.tiny)})
        print(markdown(empty_rows(options.methods, results[-1]["milliseconds"])) + "\n", flush=True)
    write(options.out, {"machine": machine(options.device), "results": results})


if __name__ == "__main__":
    main()
