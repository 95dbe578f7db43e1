"""The trainer: Lightning, LightningCLI, torchmetrics, scikit-learn and matplotlib around the loss of this package.

Modules import downwards only: ``cli`` -> ``lightning_cli`` -> ``module``, ``data`` -> ``backbones``,
``evaluation``, ``plots``. Nothing here is imported by ``import indeed_ext``; the extra is ``indeed_ext[train]``.
"""
