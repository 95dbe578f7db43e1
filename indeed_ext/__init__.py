"""INDeeD: identical and disparate feature decomposition for multi-label training, as fused kernels.

from indeed_ext import INDeeDHead
head = INDeeDHead(2048, 80)        # an nn.Linear with a training loss
loss = head(features, labels)      # mines pairs, forms both blocks, six cross-entropies
loss.backward()
logits = head(features)            # inference is the plain classifier
"""

from . import _extension, _triton, backends, operators, reference
from .backends import available_backends
from .functional import fused_indeed_loss, identical_disparate, mine_pairs, pack_labels, six_way_bce
from .modules import INDeeDHead, INDeeDLoss

__version__ = "0.1.0"

__all__ = [
    "INDeeDHead",
    "INDeeDLoss",
    "available_backends",
    "fused_indeed_loss",
    "identical_disparate",
    "mine_pairs",
    "pack_labels",
    "reference",
    "six_way_bce",
]

if _extension.is_loaded():
    operators.define("indeed_ext")
    backends.register_backend("cpu", "indeed_ext", "cpu")
    if _extension.BUILD_INFO.get("cuda"):
        backends.register_backend("cuda", "indeed_ext", "cuda")

if (_triton_operators := _triton.find_operators()) is not None:
    _device_type = _triton_operators.implement(operators.define(_triton_operators.NAMESPACE))
    backends.register_backend("triton", _triton_operators.NAMESPACE, _device_type)
