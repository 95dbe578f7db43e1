"""The trainer: Lightning, timm, torchmetrics, scikit-learn and matplotlib around the loss of this package.

Modules import downwards only: ``cli`` -> ``compare`` -> ``lightning_cli`` -> ``module``, ``data``, ``trained`` ->
``backbones``, ``evaluation`` -> ``bias``; what a command needs beside them: ``comparison``, ``page``, ``parser``,
``plots``, ``runs``, ``schedules``, ``errors``. ``inference`` (predict, cam, export) -> ``trained`` needs no
Lightning. Nothing here but ``cli`` is imported by ``import indeed_ext`` or its command; the extra is
``indeed_ext[train]``.
"""
