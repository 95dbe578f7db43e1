"""The parser of ``fit`` and ``test``: its help, and how it refuses."""

from __future__ import annotations

import re
from argparse import RawDescriptionHelpFormatter
from typing import NoReturn

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from .errors import fail

FIT_DESCRIPTION = """\
Train a network, then evaluate it. Start from a recipe and override what you like:

  indeed recipes                     lists the recipes
  indeed fit --recipe ml-digits
  indeed fit --recipe ml-digits --model.method baseline --trainer.max_epochs 5
  indeed fit --recipe ml-digits --ckpt_path runs/ml-digits-minmax-001/checkpoints/last.ckpt      (resume)
  indeed fit --data.help DigitsData  explains the options of a kind of data

The run folder then holds the settings (config.yaml), the training log (metrics.csv), the checkpoint, the plain
network's weights (model.safetensors), and of the test images the measures (evaluation.json, evaluation.csv),
the confidence map (confidence_map.png) and the report on contextual bias (contextual_bias.csv).

  --trainer.precision bf16-mixed          mixed precision
  --trainer.gradient_clip_val 1.0         gradient clipping
  --trainer.callbacks+ EMAWeightAveraging    the moving average of the weights is evaluated and saved
  --trainer.logger TensorBoardLogger --trainer.logger.save_dir tb"""

TEST_DESCRIPTION = """\
Evaluate a checkpoint on the test images of a recipe:

  indeed test --recipe ml-digits --ckpt_path runs/ml-digits-minmax-001/checkpoints/last.ckpt"""


class HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """jsonargparse's help, with the line breaks of the descriptions above."""


class ArgumentParser(LightningArgumentParser):
    """A parser that reports what is wrong in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print ``message`` as one line and exit with status 2."""
        if not self.exit_on_error:  # an inner parser, whose caller handles it
            super().error(message, ex)
        # Of "matches none of these types, for these reasons, given this value" the reasons are of use.
        wrapped = r"Does not validate .*?Errors:\s*- (.*?)(\s*- Expected a <class 'NoneType'>)?\s*Given value type:.*"
        fail(re.sub(wrapped, r"\1", message, flags=re.DOTALL))
