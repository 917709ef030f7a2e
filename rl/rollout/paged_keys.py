"""Where the paged cache keeps the indexer's keys of one layer: as computed, or as 8-bit codes with a scale
(``rl.policy.index_precision``).

TILE keys lie side by side, first the first word of each: a query is multiplied with all of them at once. A word is one
number of a key, or four of its codes; codes are stored as bytes, 128 added, as the instruction that multiplies them
wants one factor without a sign. Scales, float32, lie behind all codes.
"""

from __future__ import annotations

import torch

from rl.policy.index_precision import ZERO, encode

TILE = 8  # keys that lie side by side: words of a vector (AVX2)


def key_width(dim: int, rounded: bool, dtype: torch.dtype) -> int:
    """Numbers of ``dtype`` that the cache has for a key of ``dim`` numbers."""
    return -(-(_words(dim) + 1) * 4 // dtype.itemsize) if rounded else dim


def _words(dim: int) -> int:
    return -(-dim // 4)


class KeyPlane:
    """Keys of ``slots`` tokens in ``storage`` [slots * key_width]; what it holds before is garbage.

    ``words`` [slots / tile, W, tile]: float keys (W = dim), or int32 of four codes each. ``scales`` float32 [slots],
    None where keys are as computed. ``tile``: TILE where blocks are made of such, else a block.
    """

    def __init__(self, storage: torch.Tensor, slots: int, block_size: int, dim: int, rounded: bool) -> None:
        self.dim, self.block_size = dim, block_size
        tile = block_size if block_size % TILE else TILE
        self.scales: torch.Tensor | None = None
        if rounded:
            whole = storage.view(torch.uint8)
            codes = slots * _words(dim) * 4
            self.words = whole[:codes].view(torch.int32).view(-1, _words(dim), tile)
            self.scales = whole[codes : codes + 4 * slots].view(torch.float32)
        else:
            self.words = storage.view(-1, dim, tile)

    def places(self, slots: torch.Tensor) -> torch.Tensor:
        """long [tokens * W]: where in the plane the words of the tokens at ``slots`` go; the same in all layers."""
        _, width, tile = self.words.shape
        first = slots // tile * (width * tile) + slots % tile
        return (first[:, None] + torch.arange(0, width * tile, tile, device=first.device)).flatten()

    def put(self, slots: torch.Tensor, places: torch.Tensor, keys: torch.Tensor) -> None:
        """Keys [tokens, dim] to ``slots``; ``places`` are theirs."""
        if self.scales is not None:
            keys, scale = _encoded(keys, self.words.shape[1])
            self.scales.index_copy_(0, slots, scale)
        self.words.view(-1).index_copy_(0, places, keys.reshape(-1))

    def of_blocks(self, blocks: torch.Tensor) -> torch.Tensor:
        """Keys [R, N * block_size, dim] of the blocks long [R, N]."""
        _, width, tile = self.words.shape
        by_block = self.words.view(-1, width * self.block_size)
        tiles = by_block.index_select(0, blocks.flatten()).view(-1, width, tile)
        words = tiles.transpose(1, 2).reshape(len(blocks), -1, width)
        if self.scales is None:
            return words
        codes = words.contiguous().view(torch.uint8)[..., : self.dim].float() - ZERO
        scales = self.scales.view(-1, self.block_size).index_select(0, blocks.flatten())
        return codes * scales.view(len(blocks), -1, 1)


def _encoded(keys: torch.Tensor, words: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 [tokens, words] of the bytes of keys [tokens, dim], and float32 [tokens] of their scales."""
    tokens, dim = keys.shape
    made = torch.full((tokens, 4 * words), ZERO, dtype=torch.uint8, device=keys.device)
    if keys.is_cpu and keys.dtype == torch.float32:
        from rl.rollout.paged_codes import encode_rows  # its compiler is loaded where it is used

        scale = torch.empty(tokens)
        encode_rows(keys.numpy(), made.numpy(), scale.numpy(), ZERO)
    else:
        codes, scales = encode(keys)
        made[:, :dim] = (codes + ZERO).to(torch.uint8)
        scale = scales.squeeze(1)
    return made.view(torch.int32), scale
