"""The transformer, top to bottom: embedding, layers with U-Net skips and loops, tied head, softcapped logits.

Shapes: B windows, T tokens, D = ``dim``, H query heads, G key/value heads of width W = D / H, V vocabulary.
Weights are fp32; activations run in ``Transformer.compute_dtype``; norms, logits and loss are fp32. docs/model.md
says for each switch what it does, what it costs and which record it comes from.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.attention import Documents, prepare, prepare_behind
from golf.model.block import Block, Lanes, joined
from golf.model.depth import Skips, plan_passes
from golf.model.embedding import BigramHash, SmearGate, TokenSmear, ValueEmbedding, has_predecessor, known
from golf.model.heads import OutputGate, Shared, for_repeat
from golf.model.kernels import loss as loss_kernel
from golf.model.kernels.mix_norm import Relay
from golf.model.linear import Adapters, Embedding, Linear, TiedHead, repeated
from golf.model.loss import softcap, softcapped_nll
from golf.model.past import Past
from golf.model.residual import Residual
from golf.model.rope import ntk_base, rotation
from golf.params.model import Model

VALUE_TABLE_STD = 0.01  # of the value-embedding table, as in the 1.1228 record


class Transformer(nn.Module):
    """The model. Its random initialisation depends on ``torch.manual_seed`` alone.

    Args:
        config: shape and switches.
        vocab_size: V.
        bos_id: the token that begins a document.
        attention: an implementation of :mod:`golf.model.attention`, already chosen for the device.

    Attributes:
        compute_dtype: dtype of the activations; bf16 on GPUs. Set it before the first forward pass.
        passes: how often the looped layers run; see :meth:`set_passes`.
        kernels: compute with those of :mod:`golf.model.kernels` where there are no adapters. The loss must then be
            the mean or the sum of what ``forward`` returns, and no hook sees a product that one contains.
        graphs: scoring may record CUDA graphs of what only a GPU computes.
    """

    def __init__(self, config: Model, vocab_size: int, bos_id: int = 1, attention: str = "sdpa") -> None:
        super().__init__()
        self.config, self.vocab_size, self.bos_id = config, vocab_size, bos_id
        self.attention = attention
        self.compute_dtype = torch.float32
        self.kernels = self.graphs = False
        kv_dim = config.dim // config.num_heads * config.num_kv_heads
        has_values = config.value_embed_dim > 0 and config.value_embed_layers > 0
        self.embed = Embedding(vocab_size, config.dim)
        buckets = config.bigram_buckets
        self.bigram = BigramHash(buckets, config.bigram_dim, config.dim) if buckets else None
        self.smear = smear_gate(config)
        self.values = ValueEmbedding(vocab_size, config.value_embed_dim, kv_dim) if has_values else None
        self.blocks = nn.ModuleList(Block(config, layer, attention) for layer in range(config.num_layers))
        self.skips = Skips(config) if any(step.kept for step in plan_passes(config, config.loop_passes)) else None
        self.lanes = Lanes(config) if config.parallel == "two_lane" else None
        asymmetric = config.softcap_kind == "asymmetric"
        self.softcaps = nn.Parameter(torch.full((2,), config.logit_softcap)) if asymmetric else None
        self.fused_loss = not asymmetric and loss_kernel.takes(vocab_size, config.logit_softcap)
        self.head = TiedHead()
        self.set_passes(config.loop_passes)
        for name, module in self.named_modules():
            if isinstance(module, Linear):
                module.name = name
        if not self.embed.weight.is_meta:
            self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw the weights: orthogonal matrices, zero output projections, small normal embeddings."""
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.orthogonal_(module.weight)
        for block in cast(list[Block], self.blocks):
            nn.init.zeros_(block.attention.output.weight)
            nn.init.zeros_(block.mlp.down.weight)
        nn.init.normal_(self.embed.weight, std=self.config.embed_init_std)
        if self.bigram is not None:
            nn.init.zeros_(self.bigram.table.weight)
        if self.values is not None:
            nn.init.normal_(self.values.table.weight, std=VALUE_TABLE_STD)
        for module in self.modules():
            if isinstance(module, OutputGate) and module.init_std:
                nn.init.normal_(module.weight, std=module.init_std)

    def set_passes(self, passes: int) -> None:
        """Run the layers ``loop_first`` to ``loop_last`` that often: 1 is the model without loops.

        A fresh model has ``loop_passes``. Under ``torch.compile`` each value has its own graph.
        """
        if not 1 <= passes <= self.config.loop_passes:
            raise ValueError(f"found {passes} passes, needed 1 to model.loop_passes ({self.config.loop_passes})")
        self.passes = passes
        self.plan = plan_passes(self.config, passes)

    def adapter_shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of every matrix that an adapter can add to, by the adapter's name, at the present passes."""
        runs = {step.layer: step.repeat + 1 for step in self.plan}
        runs_of = {id(module): runs[layer] for layer, block in enumerate(self.blocks) for module in block.modules()}
        shapes = {self.head.name: (self.vocab_size, self.config.dim)}
        for module in self.modules():
            if isinstance(module, Linear):
                for repeat in range(runs_of.get(id(module), 1)):
                    shapes[repeated(module.name, repeat)] = (module.weight.shape[0], module.weight.shape[1])
        return shapes

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        adapters: Adapters | None = None,
        documents: Documents | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """The only forward pass: training, calibration, scoring and test-time training all call it.

        Args:
            tokens: (B, T) int64.
            targets: (B, T) int64, the token that follows each; fewer: those of the last tokens.
            adapters: functions added to the outputs of named matrices, see :data:`golf.model.linear.Adapters`.
            documents: with ``document_mask``, where attention stops; None: at each BOS and at the row's start.
            past: the tokens before these in the same rows, of one document each; it is told of these.

        Returns:
            without targets the logits (B, T, V), else the targets' negative log-likelihood, as they, in nats; fp32.
        """
        weight = self.embed.seen_weight()
        kernels = self.kernels and adapters is None
        if past is None:
            embedded = self.embed_tokens(tokens, weight, adapters, kernels)
        else:
            read = past.begin(tokens)
            embedded = self.embed_tokens(read, weight, adapters, kernels)[:, -tokens.shape[1] :].contiguous()
        first = self.shared(tokens, embedded, adapters, documents, past)._replace(kernels=kernels)
        first_value: Tensor | None = None
        x = Residual.of(embedded)
        second: Residual | None = None  # the lane that MLPs read; x is the one that attention and skips read
        kept: dict[int, Relay] = {}
        mergers = [] if self.skips is None else self.skips()
        for index, step in enumerate(self.plan):
            block: Block = self.blocks[step.layer]  # type: ignore[assignment]
            shared = first if step.repeat == 0 else for_repeat(first, step.repeat)
            if self.lanes is not None and second is None and step.layer >= self.config.parallel_from:
                second = x = Residual.of(x.added(kernels))
            merged = None if step.source is None else mergers[step.slot].of(kept.pop(step.source))
            if self.lanes is None or second is None:
                x, own_value = block(x.mixed(merged), first_value, shared)
            else:
                *parts, own_value = block.branches(x, second, merged, first_value, shared)
                x, second = self.lanes(*parts, step.layer)
            first_value = own_value if first_value is None else first_value
            if step.kept:
                kept[index] = Relay(x.added(kernels))
                x = Residual.of(kept[index])
        hidden = (x if second is None else joined(x, second)).normed(1.0, kernels)
        if targets is not None and targets.shape[1] < tokens.shape[1]:
            hidden = hidden[:, tokens.shape[1] - targets.shape[1] :]
        if kernels and self.fused_loss and targets is not None:
            fused = loss_kernel.linear_cross_entropy
            nll = fused(hidden.flatten(0, 1), weight, targets.flatten(), self.config.logit_softcap, kernel=True)
            return nll.view_as(targets)
        cap = self.config.logit_softcap if self.softcaps is None else self.softcaps
        logits = self.head(hidden, weight, adapters).float()
        return softcap(logits, cap) if targets is None else softcapped_nll(logits, targets, cap)

    def embed_tokens(
        self, tokens: Tensor, weight: Tensor, adapters: Adapters | None = None, kernels: bool = False
    ) -> Tensor:
        """tokens (B, T) -> the normalised embedding (B, T, D) that enters layer 0 and each residual mix; of -1 any."""
        linked = has_predecessor(tokens, self.bos_id if self.config.bos_mask else None)
        x = F.embedding(known(tokens, self.training), weight.to(self.compute_dtype))
        if self.bigram is not None:
            x = x + self.bigram(tokens, linked, self.compute_dtype, adapters)
        if isinstance(self.smear, TokenSmear):
            x = self.smear(x, linked)
        x = Residual.of(x).normed(1.0, kernels)
        return self.smear(x, linked) if isinstance(self.smear, SmearGate) else x

    def shared(
        self,
        tokens: Tensor,
        x0: Tensor,
        adapters: Adapters | None = None,
        documents: Documents | None = None,
        past: Past | None = None,
    ) -> Shared:
        """What every layer reads; ``x0`` (B, T, D) is the normalised embedding of ``tokens`` (B, T)."""
        config, (rows, length) = self.config, tokens.shape
        masks: Documents | Tensor | None = None
        longest: int = length
        start: int | Tensor = 0
        if past is not None:
            longest, start = past.window, past.seen
        elif config.document_mask and documents is not None:
            masks, longest = documents, documents.window or documents.longest
        elif config.document_mask:
            masks = document_ids(tokens, self.bos_id)
        base = ntk_base(config.rope_base, config.rope_dims, longest, config.rope_train_len)
        if past is None:
            attended = prepare(self.attention, masks, rows, length)
        else:
            keys = (past.kept, past.held, past.window)
            attended = prepare_behind(self.attention, rows, length, *keys, tokens.device)
        return Shared(
            x0=Relay(x0),
            rope=rotation(length, config.rope_dims, base, tokens.device, x0.dtype, start),
            value_embed=None if self.values is None else self.values(tokens, x0.dtype, adapters),
            documents=attended,
            adapters=adapters,
            past=past,
        )


def smear_gate(config: Model) -> SmearGate | TokenSmear | None:
    """The smear gate that ``config`` asks for."""
    if not config.smear_gate:
        return None
    if config.smear_kind == "token":
        return TokenSmear(config.gate_inputs)
    return SmearGate(config.dim, pads=not config.bos_mask)


def document_ids(tokens: Tensor, bos_id: int) -> Tensor:
    """tokens (B, T) -> (B, T) int32: which document of its row each token belongs to; a BOS begins the next."""
    return (tokens == bos_id).cumsum(1).to(torch.int32)
