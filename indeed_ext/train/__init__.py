"""The trainer: Lightning, timm, torchmetrics, scikit-learn and matplotlib around the loss of this package.

Modules import downwards only: ``cli`` -> ``compare`` -> ``lightning_cli`` -> ``module``, ``data``, ``trained`` ->
``backbones``, ``evaluation`` -> ``bias``, and ``plots``, ``page``, ``schedules``; ``inference`` (predict, cam,
export) -> ``trained``, and needs no Lightning trainer. Nothing here but ``cli`` is imported by ``import indeed_ext``
or its command; the extra is ``indeed_ext[train]``.
"""
