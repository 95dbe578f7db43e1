"""LightningCLI with the recipes, the run folder, and the evaluation after a fit."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from . import plots
from .bias import write_bias
from .data.base import MultilabelData

# Imported so that --data knows them by their names.
from .data.coco import CocoData  # noqa: F401
from .data.digits import DigitsData  # noqa: F401
from .data.features import FeaturesData  # noqa: F401
from .data.single_label import Cifar10Data, FolderData, MnistData  # noqa: F401
from .data.table import CsvData  # noqa: F401
from .data.voc import VocData  # noqa: F401
from .errors import DataError, fail, fail_on
from .evaluation import Report
from .module import IndeedModule
from .parser import FIT_DESCRIPTION, TEST_DESCRIPTION, ArgumentParser, HelpFormatter
from .recipes import recipe_files, recipe_names
from .runs import LastCheckpoint, new_folder, read_checkpoint
from .schedules import OneCycle
from .trained import About, save_trained


class IndeedCLI(LightningCLI):
    """``fit`` and ``test`` of :class:`IndeedModule` on any :class:`MultilabelData`."""

    #: Settings of the module in the checkpoint, and what it says of its run, if one was given.
    saved: Mapping[str, Any] = MappingProxyType({})
    saved_run: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, args: list[str]) -> None:
        # What Lightning says at level INFO, on absent accelerators and on products, is no news to the user.
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Lightning 2.6's own use of a torch function that torch 2.14 deprecates.
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        # The arguments are the command line with the recipe put first, whatever sys.argv holds.
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
        # A class that no image shows is nan in the tables.
        warnings.filterwarnings("ignore", message="No positive samples found in target")
        # A recipe may leave out the validation, as the paper does.
        warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
        self.checkpoints = LastCheckpoint()
        super().__init__(
            IndeedModule,
            MultilabelData,
            subclass_mode_data=True,
            seed_everything_default=0,
            parser_class=ArgumentParser,
            parser_kwargs={
                "prog": "indeed",
                "fit": {"usage": "indeed fit --recipe NAME [options]", "description": FIT_DESCRIPTION},
                "test": {
                    "usage": "indeed test --recipe NAME --ckpt_path PATH [options]",
                    "description": TEST_DESCRIPTION,
                },
            },
            trainer_defaults={
                "logger": False,  # start_run makes one
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 10,
                "callbacks": self.checkpoints,
            },
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, less those that no data module serves."""
        served = LightningCLI.subcommands()
        return {name: served[name] for name in ("fit", "test")}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Lightning's parser with our help."""
        return super().init_parser(formatter_class=HelpFormatter, **kwargs)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Lightning's three groups; the trainer's, which is long, last."""
        parser.add_lightning_class_args(IndeedModule, "model")
        parser.add_lightning_class_args(MultilabelData, "data", subclass_mode=True)
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        defaults = {f"trainer.{key}": value for key, value in self.trainer_defaults.items() if key != "callbacks"}
        parser.set_defaults(defaults)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options beside those of the trainer, the module and the data."""
        parser.add_argument("--recipe", type=str, default=None, help=f"One of {', '.join(recipe_names())}.")
        parser.add_argument("--runs_dir", type=str, default="runs", help="Folder in which the run folder is made.")
        parser.add_argument(
            "--threads", type=int | None, default=None, help="CPU threads of torch; null leaves it its default."
        )
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("data.in_channels", "model.in_channels", apply_on="instantiate")

    @staticmethod
    def configure_optimizers(
        lightning_module: LightningModule, optimizer: Optimizer, lr_scheduler: LRScheduler | None = None
    ) -> Any:
        """Lightning's, but :class:`OneCycle` goes by the step and over them all."""
        if not isinstance(lr_scheduler, OneCycle):
            return LightningCLI.configure_optimizers(lightning_module, optimizer, lr_scheduler)
        # One step more: the trainer also advances the schedule after the last step.
        schedule = lr_scheduler.over(int(lightning_module.trainer.estimated_stepping_batches) + 1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ------------------------------------------------------------------ checks before any work

    def _parse_ckpt_path(self) -> None:
        """Check the checkpoint, and take the module's settings from it for a test.

        In a fit Lightning lets them replace those given without a word; here a fit resumes the same run or refuses.
        """
        config = self.config[self.config.subcommand]
        if config.ckpt_path is None:
            if self.config.subcommand == "test":
                fail("--ckpt_path: which checkpoint shall be tested?")
            return
        checkpoint = read_checkpoint(config.ckpt_path)
        self.saved, self.saved_run = checkpoint["hyper_parameters"], checkpoint["run"]
        if self.config.subcommand == "test":
            self.saved = {**self.saved, "pretrained": False}  # the checkpoint has the weights
        elif self.saved_run["recipe"] != config.recipe:
            fail(f"--ckpt_path: it is of the recipe {self.saved_run['recipe']}, not {config.recipe}")
        for key, value in config.model.items():
            saved = self.saved.get(key, value)
            if self.config.subcommand == "fit" and saved != value:
                fail(f"--ckpt_path: it was trained with model.{key} {saved!r}, not {value!r}; resume it with that")
            config.model[key] = saved

    def before_instantiate_classes(self) -> None:
        """Refuse numbers that make no run, some of which Lightning would take for something else."""
        config = self.config[self.subcommand]
        for option, value in (("trainer.max_epochs", config.trainer.max_epochs), ("threads", config.threads)):
            if value is not None and value < 1:
                fail(f"--{option}: expected at least 1, got {value}")
        if config.threads is not None:
            torch.set_num_threads(config.threads)

    def instantiate_classes(self) -> None:
        """An error of the classes is the user's, in one line."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, OSError, MisconfigurationException) as error:
            while isinstance(error.__cause__, (ValueError, TypeError)):  # jsonargparse wraps what a class says
                error = error.__cause__
            fail(error)

    # ------------------------------------------------------------------ the run

    def before_fit(self) -> None:
        """Make the run folder, now that nothing is left to refuse."""
        self.start_run(f"{self.run_name}-{self.model.method}")

    def before_test(self) -> None:
        """Make the run folder."""
        self.start_run(f"{self.run_name}-test")

    def after_fit(self) -> None:
        """Write the plain network's weights and evaluate them."""
        if self.trainer.is_global_zero:
            data = self.datamodule
            about = About(
                backbone=self.model.hparams.backbone,
                classes=list(data.class_names),
                in_channels=data.in_channels,
                image_size=list(data.input_size),
                mean=list(data.mean),
                std=list(data.std),
                thresholds=self.model.thresholds.tolist(),
            )
            save_trained(self.model.plain_state_dict(), about, self.run_folder / "model.safetensors")
        self.trainer.test(self.model, self.datamodule, verbose=False)
        self.after_test()

    def after_test(self) -> None:
        """Write the measures and the pictures of every test set, and print the tables; the first set is the one."""
        train_labels = self.datamodule.train_labels()
        for number, (name, evaluation) in enumerate(zip(self.datamodule.tests, self.model.tests, strict=True)):
            report = evaluation.report(self.datamodule.class_names, train_labels)
            if self.trainer.is_global_zero:
                self.write_report(report, name, f"-{name}" if number else "")
        if self.trainer.is_global_zero:
            files = ", ".join(sorted(path.name for path in self.run_folder.iterdir()))
            print(f"The run is in {self.run_folder}/: {files}")

    def write_report(self, report: Report, test: str, suffix: str) -> None:
        """Write the files of one test set, their names ending in ``suffix``, and print its table."""
        config = self.config[self.subcommand]
        title = f"{self.run_name}, {self.model.method}"
        means = f"mean on the diagonal {report.mean_diagonal:.3f}, off it {report.mean_off_diagonal:.3f}"
        about = {"recipe": config.recipe, "method": self.model.method, "seed": config.seed_everything, "test": test}
        report.write_json(self.run_folder / f"evaluation{suffix}.json", **about)
        report.write_csv(self.run_folder / f"evaluation{suffix}.csv")
        write_bias(report.bias, self.run_folder / f"contextual_bias{suffix}.csv")
        heading = f"{title}: confidence map of the test images ({test})\n{means}"
        picture = self.run_folder / f"confidence_map{suffix}.png"
        plots.confidence_map(report.confidence, report.class_names, heading, picture)
        print(f"\n{title}, on the test images ({test})\n\n{report.table()}\n")

    @property
    def run_name(self) -> str:
        """The recipe, or the kind of data where no recipe was used."""
        return self.config[self.subcommand].recipe or type(self.datamodule).__name__

    def start_run(self, name: str) -> None:
        """Make the run folder, and log into it before any logger that the user added: the first one's folder counts."""
        config = self.config[self.subcommand]
        for key, value in self.saved.items():
            if self.model.hparams.get(key, value) != value:
                fail(f"--ckpt_path: it was trained with {key} {value}, the data have {self.model.hparams[key]}")
        classes = list(self.datamodule.class_names)
        for trained, named in zip(self.saved_run.get("classes", classes), classes, strict=True):
            if trained != named:
                fail(f"--ckpt_path: it was trained with a class {trained!r} where the data have {named!r}")
        self.checkpoints.run = {"recipe": config.recipe, "classes": classes}
        try:
            self.run_folder = new_folder(Path(config.runs_dir), name, self.trainer.is_global_zero)
        except OSError as error:
            fail(f"--runs_dir: {error}")
        if not config.trainer.fast_dev_run:
            self.trainer.loggers = [CSVLogger(self.run_folder, name="", version=""), *self.trainer.loggers]


def run(argv: list[str]) -> IndeedCLI:
    """Run ``fit`` or ``test``; wherever ``argv`` names the recipe, it comes first, so that the rest overrides it."""
    subcommand, rest, recipe = argv[0], [], None
    options = iter(argv[1:])
    for option in options:
        if option == "--recipe":
            recipe = next(options, None) or fail("--recipe: which one?")
        elif option.startswith("--recipe="):
            recipe = option.partition("=")[2]
        else:
            rest.append(option)
    first = []
    if recipe is None and not rest:
        fail(f"--recipe: name one of {', '.join(recipe_names())}, or give a configuration with --config")
    if recipe is not None:
        try:
            first = [f"--config={path}" for path in recipe_files(recipe)] + [f"--recipe={recipe}"]
        except ValueError as error:
            fail(f"--recipe: {error}")
    try:
        return IndeedCLI([subcommand, *first, *rest])
    except DataError as error:
        fail_on(error)
