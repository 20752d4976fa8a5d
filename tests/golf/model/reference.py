"""The model by its formulas: fp64, one head and one document at a time, straight from a state_dict."""

import math

import torch


class Reference:
    """Computes the logits (B, T, V) of ``model``'s weights; shares no code with it."""

    def __init__(self, model):
        self.config, self.bos = model.config, model.bos_id
        self.passes = model.passes
        self.state = {name: value.double() for name, value in model.state_dict().items()}

    def logits(self, tokens):
        x0 = torch.stack([self.embed(row) for row in tokens])
        x = norm(self.run(tokens, x0))
        z, cap = x @ self.state["embed.weight"].T, self.config.logit_softcap
        if self.config.softcap_kind == "symmetric":
            return cap * torch.tanh(z / cap)
        above, below = self.state["softcaps"]
        return torch.where(z < 0, below * torch.tanh(z / below), above * torch.tanh(z / above))

    def embed(self, row):
        """One row (T,) -> (T, D), token by token."""
        config, state = self.config, self.state
        raw = [state["embed.weight"][token] for token in row]
        if config.bigram_buckets:
            raw = [x + self.bigram(row, t) for t, x in enumerate(raw)]
        if config.smear_gate and config.smear_kind == "token":
            raw = [self.smear_token(raw, row, t) for t in range(len(row))]
        out = [norm(x) for x in raw]
        if config.smear_gate and config.smear_kind == "channel":
            share = torch.sigmoid(state["smear.gate"])
            zero = torch.zeros_like(out[0])
            if config.bos_mask:
                out = [
                    (1 - share) * x + share * out[t - 1] if t and row[t] != self.bos else x for t, x in enumerate(out)
                ]
            else:
                out = [(1 - share) * x + share * (out[t - 1] if t else zero) for t, x in enumerate(out)]
        return torch.stack(out)

    def linked(self, row, t):
        return t > 0 and not (self.config.bos_mask and row[t] == self.bos)

    def bigram(self, row, t):
        last = self.config.bigram_buckets - 1
        bucket = ((36313 * int(row[t])) ^ (27191 * int(row[t - 1]))) % last if self.linked(row, t) else last
        return (
            self.state["bigram.scale"] * self.state["bigram.project.weight"] @ self.state["bigram.table.weight"][bucket]
        )

    def smear_token(self, raw, row, t):
        if not self.linked(row, t):
            return raw[t]
        weight = self.state["smear.weight"]
        share = self.state["smear.scale"] * torch.sigmoid(weight @ raw[t][: len(weight)])
        return raw[t] + share * raw[t - 1]

    def order(self):
        config = self.config
        loop = list(range(config.loop_first, config.loop_last + 1))
        return [*range(config.loop_first), *loop * self.passes, *range(config.loop_last + 1, config.num_layers)]

    def run(self, tokens, x):
        """Encoder passes push their output, decoder passes pop one; two lanes from ``parallel_from`` on."""
        config, x0, first_value, second, stack = self.config, x, None, None, []
        order = self.order()
        half = len(order) // 2
        for index, layer in enumerate(order):
            if config.parallel == "two_lane" and layer >= config.parallel_from and second is None:
                second = x
            if config.unet_skips != "none" and index >= half and stack:
                x = self.merge(x, stack.pop(), index - half, len(order))
            get = lambda name, layer=layer: self.state[f"blocks.{layer}.{name}"]  # noqa: E731
            scale = 1 / math.sqrt(layer + 1) if config.ln_scale else 1.0
            u = get("resid_mix")[0] * x + get("resid_mix")[1] * x0 if config.resid_mix else x
            y, value = self.attention(tokens, scale * norm(u), layer, first_value)
            a = get("attention_scale") * y
            first_value = value if first_value is None else first_value
            if second is not None:
                f = get("mlp_scale") * self.mlp(scale * norm(second), get)
                keep, take = self.state["lanes.keep"][layer], self.state["lanes.take"][layer]
                x, second = (
                    keep[lane] * old + take[0, lane] * a + take[1, lane] * f for lane, old in enumerate((x, second))
                )
            elif config.parallel == "one_lane" and layer >= config.parallel_from:
                x = u + a + get("mlp_scale") * self.mlp(scale * norm(u), get)
            else:
                u = u + a
                x = u + get("mlp_scale") * self.mlp(scale * norm(u), get)
            if index < half:
                stack.append(x)
        return x if second is None else (x + second) / 2

    def merge(self, x, skip, place, passes):
        """The ``place``-th merger. By layer: counted from the end as without loops, the earlier ones in new slots."""
        own = self.config.num_layers // 2
        extra = (passes - self.config.num_layers) // 2
        new = self.config.skip_binding == "layer" and place < extra
        slot = place if self.config.skip_binding == "position" else own + extra - 1 - place if new else place - extra
        skip = self.state["skips.weights"][slot] * skip
        if self.config.unet_skips == "additive":
            return x + skip
        share = torch.sigmoid(self.state["skips.gates"][slot])
        return x + (1 - share) * skip if new else share * x + (1 - share) * skip

    def mlp(self, x, get):
        z = x @ get("mlp.up.weight").T
        kind = self.config.activation
        if kind == "leaky_relu2":
            z = torch.where(z > 0, z, self.config.leaky_slope * z) ** 2
        else:
            z = torch.clamp(z, min=0) ** 2
        if kind == "star_relu":
            z = get("mlp.star_scale") * z + get("mlp.star_bias")
        return z @ get("mlp.down.weight").T

    def attention(self, tokens, x, layer, first_value):
        config = self.config
        get = lambda name: self.state[f"blocks.{layer}.attention.{name}"]  # noqa: E731
        width = config.dim // config.num_heads
        q, k, v = (x @ get(f"{name}.weight").T for name in ("query", "key", "value"))
        if config.value_embed_dim and layer >= config.num_layers - config.value_embed_layers:
            table = self.state["values.table.weight"][tokens] @ self.state["values.project.weight"].T
            v = v + get("value_embed_gain") * self.state["values.scale"] * table
        own = v
        if config.value_residual and layer > 0:
            v = v + torch.sigmoid(get("value_residual_gate")) * first_value
        heads = []
        for head in range(config.num_heads):
            group = head * config.num_kv_heads // config.num_heads
            mine, theirs = slice(head * width, (head + 1) * width), slice(group * width, (group + 1) * width)
            queries = self.turn(norm(q[..., mine])) * get("query_gain")[head]
            scores = queries @ self.turn(norm(k[..., theirs])).mT / math.sqrt(width)
            y = scores.masked_fill(~self.visible(tokens), -math.inf).softmax(-1) @ v[..., theirs]
            if layer >= config.num_layers - config.xsa_layers:
                unit = v[..., theirs] / v[..., theirs].norm(dim=-1, keepdim=True)
                y = y - (y * unit).sum(-1, keepdim=True) * unit
            heads.append(y * self.gate(x, head, get))
        return torch.cat(heads, -1) @ get("output.weight").T, own

    def gate(self, x, head, get):
        kind = self.config.attention_gate
        if kind == "none":
            return 1.0
        weight = get("gate.weight")[head]
        z = (x[..., : len(weight)] @ weight)[..., None]
        scale = self.config.gate_scale
        return {"double": 2 * torch.sigmoid(z), "dense": torch.sigmoid(z), "sparse": torch.sigmoid(scale * z)}[kind]

    def turn(self, x):
        config, length = self.config, x.shape[1]
        r, base = config.rope_dims, config.rope_base
        if config.rope_train_len and length > config.rope_train_len:
            base *= (length / config.rope_train_len) ** (r / (r - 2))
        out = x.clone()
        for j in range(r // 2):
            angle = torch.arange(length, dtype=torch.float64) * base ** (-2 * j / r)
            a, b = x[..., j], x[..., j + r // 2]
            out[..., j] = a * angle.cos() + b * angle.sin()
            out[..., j + r // 2] = b * angle.cos() - a * angle.sin()
        return out

    def visible(self, tokens):
        batch, length = tokens.shape
        seen = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, -1, -1).clone()
        if self.config.document_mask:
            for row in range(batch):
                for t in range(length):
                    start = max([s for s in range(t + 1) if tokens[row, s] == self.bos], default=0)
                    seen[row, t, :start] = False
        return seen


def norm(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
