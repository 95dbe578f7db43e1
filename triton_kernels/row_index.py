"""The rows that a sample takes part in, as linked lists, so that its gradient collects from them without a search.

Row r has two endpoints: r belongs to its source, count + r to its partner. ``row_index``, int32 [batch + 2 count],
holds for every sample the first of its endpoints, then for every endpoint the next one of the same sample; 2 count
ends a list. An endpoint that is out of range is in no sample's list, the other one of its row is.
"""

import triton.language as tl

from .jit import device_function
from .rows import directed_row


@device_function
def _sample_of(pairs, endpoint, count, batch, LIST: tl.constexpr):
    """The sample an endpoint belongs to, -1 where there is none."""
    of_partner = endpoint >= count
    inside = (endpoint >= 0) & (endpoint < 2 * count)
    row = tl.where(inside, tl.where(of_partner, endpoint - count, endpoint), count)
    source, partner, _valid = directed_row(pairs, row, count, batch, LIST)
    sample = tl.where(of_partner, partner, source)
    return tl.where((sample >= 0) & (sample < batch), sample, -1).to(tl.int32)


@device_function
def store_row_index(pairs, row_index, item, count, batch, LIST: tl.constexpr, BLOCK: tl.constexpr):
    """Fills items [M] of the ``row_index`` by looking at all endpoints behind them."""
    endpoint = item - batch
    sample = tl.where(endpoint < 0, item, _sample_of(pairs, endpoint, count, batch, LIST))
    end = 2 * tl.cast(count, tl.int32)
    following = tl.zeros(item.shape, tl.int32) + end
    for start in range(0, end, BLOCK):
        other = start + tl.arange(0, BLOCK)
        same = _sample_of(pairs, other, count, batch, LIST)[None, :] == sample[:, None]
        behind = same & (other[None, :] > endpoint[:, None])
        following = tl.minimum(following, tl.min(tl.where(behind, other[None, :], end), axis=1))
    tl.store(row_index + item, following, mask=item < batch + end)
