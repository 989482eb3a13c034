"""Small networks of many kinds with random sizes, and random masks, for the tests of the export."""

import random

import torch
from torch import nn
from torch.nn import functional as F

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Embedding)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def kill(model, generator):
    """Zero whole outputs and inputs of layers at random, with or without their biases, and single weights."""
    draw = generator.random
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                _kill_heads(module, generator)
            elif isinstance(module, WEIGHTED) and module.weight.ndim >= 2:
                weight = module.weight
                outer = 1 if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Embedding)) else 0
                rows = _some(weight.shape[outer], generator, 0.4 if draw() < 0.8 else 0.0)
                columns = _some(weight.shape[1 - outer], generator, 0.3 if draw() < 0.6 else 0.0)
                weight.index_fill_(outer, rows, 0.0)
                if not isinstance(module, nn.Embedding):
                    weight.index_fill_(1 - outer, columns, 0.0)
                    if module.bias is not None and draw() < 0.5 and outer == 0:
                        module.bias[rows] = 0.0
                weight.mul_(torch.rand(weight.shape) < 0.8)
            elif isinstance(module, NORMS):
                for value, low, high in ((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)):
                    if value is not None:
                        value.uniform_(low, high)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.5, 0.5)
                    module.weight[_some(len(module.weight), generator, 0.2)] = 0.0
    return model.eval()


def _some(n, generator, part):
    return torch.tensor([i for i in range(n) if generator.random() < part], dtype=torch.int64)


def _kill_heads(module, generator):
    width = module.embed_dim // module.num_heads
    for head in range(module.num_heads):
        if generator.random() < 0.4:
            part = slice(head * width, (head + 1) * width)
            module.out_proj.weight[:, part] = 0.0
            if generator.random() < 0.5:
                module.in_proj_weight[2 * module.embed_dim :][part] = 0.0


def silence_heads(projection, out, width, generator):
    """Zero the columns of an output projection, head by head."""
    with torch.no_grad():
        for head in range(out.weight.shape[1] // width):
            if generator.random() < 0.5:
                out.weight[:, head * width : (head + 1) * width] = 0.0


class Apply(nn.Module):
    """A module from layers by name and a function of them and the input."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


class Heads(nn.Module):
    """Attention written by hand; the number of heads follows from the width of a head."""

    def __init__(self, n, width, n_heads, fused):
        super().__init__()
        self.width, self.fused = width, fused
        self.q, self.k, self.v = (nn.Linear(n, width * n_heads) for _ in range(3))
        self.out = nn.Linear(width * n_heads, n)

    def forward(self, x):
        q, k, v = (f(x).view(*x.shape[:2], -1, self.width).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) / self.width**0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class PackedHeads(nn.Module):
    """One projection for queries, keys and values; the number of heads is an attribute."""

    def __init__(self, n, width, n_heads):
        super().__init__()
        self.n_heads, self.head_dim = n_heads, width
        self.qkv, self.out = nn.Linear(n, 3 * width * n_heads), nn.Linear(width * n_heads, n)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.n_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = (
            F.scaled_dot_product_attention(q, k, v)
            .transpose(1, 2)
            .reshape(b, t, self.n_heads * self.head_dim)
        )
        return self.out(y)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, n):
        super().__init__()
        self.down, self.up = nn.Linear(n, max(n // 2, 1)), nn.Linear(max(n // 2, 1), n)

    def forward(self, x):
        scale = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3))))))
        return x * scale[:, :, None, None]


class Residual(nn.Module):
    def __init__(self, n, bias, norm):
        super().__init__()
        self.a, self.b = (nn.Conv2d(n, n, 3, padding=1, bias=bias) for _ in range(2))
        self.na, self.nb = (nn.BatchNorm2d(n) if norm else nn.Identity() for _ in range(2))

    def forward(self, x):
        return torch.relu(self.nb(self.b(torch.relu(self.na(self.a(x))))) + x)


def _sizes(r, *ranges):
    return [r.randint(low, high) for low, high in ranges]


def _mlp(r):
    a, b, c = _sizes(r, (3, 8), (4, 12), (4, 12))
    act = r.choice([nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.ELU, nn.Hardswish])
    return nn.Sequential(
        nn.Linear(a, b, bias=r.random() < 0.7), act(), nn.Linear(b, c), act(), nn.Linear(c, 3)
    ), (a,)


def _mlp_norm(r):
    a, b, c = _sizes(r, (3, 8), (4, 12), (4, 12))
    norm = lambda n: nn.BatchNorm1d(n, affine=r.random() < 0.7)  # noqa: E731
    layers = [
        nn.Linear(a, b, bias=False),
        norm(b),
        nn.ReLU(),
        nn.Linear(b, c, bias=r.random() < 0.5),
        norm(c),
    ]
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(c, 3)), (a,)


def _lenet(r):
    a, b, c = _sizes(r, (2, 6), (3, 8), (4, 12))
    pool = r.choice([nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AvgPool2d(2, divisor_override=3)])
    layers = [nn.Conv2d(1, a, 3, padding=r.choice([0, 1])), nn.ReLU(), pool, nn.Conv2d(a, b, 2), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * b, c), nn.ReLU(), nn.Linear(c, 3)
    ), (1, 9, 9)


def _conv_norm(r):
    a, b, c = _sizes(r, (2, 6), (3, 8), (3, 8))
    norm = lambda n: nn.BatchNorm2d(n)  # noqa: E731
    act = lambda: r.choice([nn.ReLU(inplace=True), nn.SiLU(), nn.LeakyReLU(0.1), nn.Hardtanh()])  # noqa: E731
    layers = [
        nn.Conv2d(2, a, 3, bias=False),
        norm(a),
        act(),
        nn.Conv2d(a, b, 3, padding=r.choice([0, 1])),
        norm(b),
    ]
    return nn.Sequential(
        *layers, act(), nn.Conv2d(b, c, 1, bias=False), norm(c), act(), nn.Flatten(), nn.LazyLinear(3)
    ), (2, 7, 7)


def _resnet(r):
    n, c = _sizes(r, (3, 8), (3, 8))
    norm, bias = r.random() < 0.6, r.random() < 0.5
    return nn.Sequential(
        nn.Conv2d(1, n, 3, padding=1, bias=bias),
        nn.BatchNorm2d(n) if norm else nn.Identity(),
        nn.ReLU(),
        Residual(n, bias, norm),
        Residual(n, bias, norm),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(n, c),
    ), (1, 6, 6)


def _depthwise(r):
    a, b, m = _sizes(r, (2, 6), (3, 8), (1, 2))
    return nn.Sequential(
        nn.Conv2d(2, a, 1),
        nn.ReLU6(),
        nn.Conv2d(a, a * m, 3, padding=r.choice([0, 1]), groups=a),
        nn.ReLU6(),
        nn.Conv2d(a * m, b, 1),
        nn.BatchNorm2d(b),
        nn.Flatten(),
        nn.LazyLinear(3),
    ), (2, 6, 6)


def _grouped(r):
    g = r.choice([2, 3])
    a, b = g * r.randint(1, 3), g * r.randint(1, 3)
    return nn.Sequential(
        nn.Conv2d(2, a, 1), nn.ReLU(), nn.Conv2d(a, b, 3, groups=g), nn.ReLU(), nn.Conv2d(b, 3, 1)
    ), (2, 6, 6)


def _concat(r):
    a, b, c = _sizes(r, (2, 6), (2, 6), (3, 8))
    axis = r.choice([1, -3])
    return Apply(
        lambda m, x: m.head(m.c(torch.cat([torch.relu(m.a(x)), torch.sigmoid(m.b(x))], axis)).flatten(1)),
        a=nn.Conv2d(2, a, 3),
        b=nn.Conv2d(2, b, 3),
        c=nn.Conv2d(a + b, c, 2),
        head=nn.LazyLinear(3),
    ), (2, 6, 6)


def _dense_block(r):
    a, b, c = _sizes(r, (2, 5), (2, 5), (2, 5))

    def forward(m, x):
        x = torch.relu(m.stem(x))
        x = torch.cat([x, torch.relu(m.a(x))], 1)
        x = torch.cat([x, torch.relu(m.norm(m.b(x)))], 1)
        return m.head(x.amax((2, 3)))

    return Apply(
        forward,
        stem=nn.Conv2d(1, a, 3),
        a=nn.Conv2d(a, b, 3, padding=1),
        b=nn.Conv2d(a + b, c, 3, padding=1),
        norm=nn.BatchNorm2d(c),
        head=nn.Linear(a + b + c, 3),
    ), (1, 6, 6)


def _gated(r):
    a, b = _sizes(r, (3, 8), (3, 8))
    return nn.Sequential(
        nn.Conv2d(1, a, 3),
        nn.ReLU(),
        Gate(a),
        nn.Conv2d(a, b, 3),
        nn.ReLU(),
        Gate(b),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(3),
    ), (1, 8, 8)


def _product(r):
    a, b = _sizes(r, (3, 10), (3, 10))
    kind = r.choice([torch.relu, torch.tanh, F.silu])
    return Apply(
        lambda m, x: m.d(kind(m.c(kind(m.a(x)) * m.b(x)) * m.scale)),
        a=nn.Linear(5, a),
        b=nn.Linear(5, a),
        c=nn.Linear(a, b),
        d=nn.Linear(b, 3),
        scale=nn.Parameter(torch.rand(b)),
    ), (5,)


def _glu(r):
    a, b = _sizes(r, (3, 8), (3, 8))

    def forward(m, x):
        y = F.glu(m.a(x), -1)
        first, second = m.b(y).chunk(2, -1)
        return m.c(first * F.silu(second))

    return Apply(forward, a=nn.Linear(5, 2 * a), b=nn.Linear(a, 2 * b), c=nn.Linear(b, 3)), (4, 5)


def _split(r):
    a, b = _sizes(r, (2, 5), (2, 5))

    def forward(m, x):
        y, z = m.stem(x).split([a, b], 1)
        return m.head(torch.cat([m.one(y.relu()), m.two(z.tanh())], 1).mean((2, 3)))

    return Apply(
        forward,
        stem=nn.Conv2d(1, a + b, 3),
        one=nn.Conv2d(a, 4, 1),
        two=nn.Conv2d(b, 4, 1),
        head=nn.Linear(8, 3),
    ), (1, 5, 5)


def _views(r):
    a, b = _sizes(r, (2, 6), (3, 8))
    flat = r.choice(
        [
            lambda y: y.view(y.shape[0], -1),
            lambda y: y.reshape(len(y), -1),
            lambda y: torch.flatten(y, 1),
            lambda y: y.flatten(2).flatten(1),
            lambda y: y.view(-1, y.shape[1] * 16),
            lambda y: y.permute(0, 2, 3, 1).reshape(y.shape[0], -1),
        ]
    )
    return Apply(
        lambda m, x: m.b(torch.relu(m.a(flat(torch.relu(m.c(x)))))),
        c=nn.Conv2d(1, a, 3),
        a=nn.Linear(16 * a, b),
        b=nn.Linear(b, 3),
    ), (1, 6, 6)


def _rows(r):
    a, b = _sizes(r, (2, 6), (3, 8))

    def forward(m, x):
        n, c, *_ = m.c(x).shape
        y = torch.relu(m.a(m.c(x).relu().reshape(n * c, -1)))
        return m.head(m.b(y).view(n, c, -1).squeeze(-1))

    return Apply(
        forward, c=nn.Conv2d(1, a, 3), a=nn.Linear(16, b), b=nn.Linear(b, 1), head=nn.Linear(a, 3)
    ), (1, 6, 6)


def _permuted(r):
    a, b = _sizes(r, (3, 8), (3, 8))

    def forward(m, x):
        y = m.conv(x).permute(0, 2, 3, 1)
        y = m.norm(m.b(F.gelu(m.a(y)))) + y
        return m.head(y.permute(0, 3, 1, 2).mean((-2, -1)).unsqueeze(1).squeeze(1))

    return Apply(
        forward,
        conv=nn.Conv2d(1, a, 3),
        a=nn.Linear(a, b),
        b=nn.Linear(b, a),
        norm=nn.LayerNorm(a),
        head=nn.Linear(a, 3),
    ), (1, 5, 5)


def _padded(r):
    a, b = _sizes(r, (2, 6), (2, 6))
    mode = r.choice(["constant", "reflect", "replicate", "circular"])
    value = {"value": r.choice([0.0, 0.5])} if mode == "constant" else {}
    return Apply(
        lambda m, x: m.head(
            m.b(F.pad(torch.sigmoid(m.a(x)), (1, 1, 1, 1), mode=mode, **value)).relu().mean((2, 3))
        ),
        a=nn.Conv2d(1, a, 3, padding=1, padding_mode=r.choice(["zeros", "reflect"])),
        b=nn.Conv2d(a, b, 3),
        head=nn.Linear(b, 3),
    ), (1, 6, 6)


def _unet(r):
    a, b = _sizes(r, (2, 6), (3, 8))
    up = r.choice([nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear"), None])

    def forward(m, x):
        skip = torch.relu(m.a(x))
        y = torch.relu(m.b(F.max_pool2d(skip, 2)))
        return m.c(torch.cat([m.up(y), skip], 1))

    grow = nn.ConvTranspose2d(b, b, 2, stride=2) if up is None else up
    return Apply(
        forward,
        a=nn.Conv2d(1, a, 3, padding=1),
        b=nn.Conv2d(a, b, 3, padding=1),
        up=grow,
        c=nn.Conv2d(a + b, 2, 1),
    ), (1, 8, 8)


def _prelu(r):
    a, b = _sizes(r, (3, 8), (3, 8))
    return nn.Sequential(
        nn.Conv2d(1, a, 3),
        nn.PReLU(r.choice([1, a])),
        nn.Conv2d(a, b, 3),
        nn.PReLU(b),
        nn.Flatten(),
        nn.LazyLinear(3),
    ), (1, 6, 6)


def _transposed(r):
    a, b = _sizes(r, (2, 6), (2, 6))
    return nn.Sequential(
        nn.Linear(4, a * 4),
        nn.ReLU(),
        nn.Unflatten(1, (a, 2, 2)),
        nn.ConvTranspose2d(a, b, 2, stride=2),
        nn.BatchNorm2d(b),
        nn.ReLU(),
        nn.ConvTranspose2d(b, 2, 3, padding=1),
    ), (4,)


def _conv1d(r):
    a, b = _sizes(r, (2, 6), (3, 8))
    return nn.Sequential(
        nn.Conv1d(2, a, 3, padding=r.choice([0, 1, "same"])),
        nn.BatchNorm1d(a),
        nn.ReLU(),
        nn.Conv1d(a, b, 3, dilation=2),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(2),
        nn.Flatten(),
        nn.Linear(2 * b, 3),
    ), (2, 12)


def _conv3d(r):
    a, b = _sizes(r, (2, 6), (3, 8))
    return nn.Sequential(
        nn.Conv3d(1, a, 2),
        nn.BatchNorm3d(a),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(a, b, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(b, 3),
    ), (1, 5, 5, 5)


def _tokens_norm(r):
    t = r.randint(3, 6)
    c = t if r.random() < 0.5 else r.randint(3, 7)
    return Apply(
        lambda m, x: m.b(torch.relu(m.norm(m.a(x)))),
        a=nn.Linear(4, c),
        norm=nn.BatchNorm1d(t),
        b=nn.Linear(c, 3),
    ), (t, 4)


def _norms(r):
    a, g = r.choice([(4, 2), (6, 3), (6, 2)])
    return nn.Sequential(
        nn.Conv2d(1, 5, 3),
        nn.InstanceNorm2d(5, affine=True),
        nn.ReLU(),
        nn.Conv2d(5, a, 1),
        nn.GroupNorm(g, a),
        nn.ReLU(),
        nn.Conv2d(a, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(3),
    ), (1, 8, 8)


def _attention(r):
    width, heads = r.randint(2, 4), r.randint(2, 4)
    n = r.randint(4, 8)
    block = Heads(n, width, heads, r.random() < 0.5)
    model = Apply(
        lambda m, x: m.head(m.norm(x + m.block(x)).mean(1)),
        block=block,
        norm=nn.LayerNorm(n),
        head=nn.Linear(n, 3),
    )
    model.finish = lambda generator: silence_heads(block.v, block.out, width, generator)
    return model, (5, n)


def _packed_attention(r):
    width, heads, n = r.randint(2, 4), r.randint(2, 4), r.randint(4, 8)
    block = PackedHeads(n, width, heads)
    model = Apply(
        lambda m, x: m.head(m.norm(x + m.block(x)).mean(1)),
        block=block,
        norm=nn.LayerNorm(n),
        head=nn.Linear(n, 3),
    )
    model.finish = lambda generator: silence_heads(block.qkv, block.out, width, generator)
    return model, (5, n)


def _multihead(r):
    heads = r.randint(2, 4)
    n = heads * r.randint(1, 3)
    first = r.random() < 0.7
    attention = nn.MultiheadAttention(n, heads, batch_first=first, bias=r.random() < 0.7)
    return Apply(
        lambda m, x: m.b(F.gelu(m.a(x + m.attention(x, x, x, need_weights=False)[0]))),
        attention=attention,
        a=nn.Linear(n, 7),
        b=nn.Linear(7, 3),
    ), (5, n)


def _encoder(r):
    heads = r.randint(2, 3)
    n = heads * r.randint(2, 3)
    layer = nn.TransformerEncoderLayer(
        n,
        heads,
        r.randint(5, 9),
        batch_first=True,
        norm_first=r.random() < 0.5,
        activation=r.choice(["relu", "gelu"]),
    )
    return Apply(
        lambda m, x: m.head(m.layers(x)[:, 0]),
        layers=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        head=nn.Linear(n, 3),
    ), (4, n)


def _mixer(r):
    t, c, h, k = _sizes(r, (3, 6), (3, 6), (4, 8), (4, 8))

    def forward(m, x):
        x = x + m.b(F.gelu(m.a(m.one(x).transpose(1, 2)))).transpose(1, 2)
        return m.head((x + m.d(F.gelu(m.c(m.two(x))))).mean(1))

    return Apply(
        forward,
        one=nn.LayerNorm(c),
        two=nn.LayerNorm(c),
        a=nn.Linear(t, h),
        b=nn.Linear(h, t),
        c=nn.Linear(c, k),
        d=nn.Linear(k, c),
        head=nn.Linear(c, 3),
    ), (t, c)


def _embedded(r):
    a, b = _sizes(r, (4, 8), (4, 10))
    model = Apply(
        lambda m, x: m.out(torch.relu(m.a(m.table(x) + m.places)).mean(1)),
        table=nn.Embedding(9, a),
        places=nn.Parameter(torch.randn(1, 5, a)),
        a=nn.Linear(a, b),
        out=nn.Linear(b, 3),
    )
    return model, torch.randint(0, 9, (3, 5))


def _recurrent(r):
    a, b = _sizes(r, (3, 6), (3, 6))
    kind = r.choice([nn.LSTM, nn.GRU])
    return Apply(
        lambda m, x: m.out(torch.relu(m.b(m.core(torch.relu(m.a(x)))[0][:, -1]))),
        a=nn.Linear(3, a),
        core=kind(a, b, batch_first=True),
        b=nn.Linear(b, 8),
        out=nn.Linear(8, 3),
    ), (4, 3)


def _twice(r):
    a, b = _sizes(r, (3, 7), (3, 7))
    return Apply(
        lambda m, x: m.out(torch.relu(m.b(torch.relu(m.inner(torch.relu(m.inner(m.a(x))))))) + m.b(m.a(x))),
        a=nn.Linear(4, a),
        inner=nn.Linear(a, a),
        b=nn.Linear(a, b),
        out=nn.Linear(b, 3),
    ), (4,)


def _shuffled(r):
    g, a = 2, 2 * r.randint(2, 4)
    return nn.Sequential(
        nn.Conv2d(2, a, 1),
        nn.ReLU(),
        nn.ChannelShuffle(g),
        nn.Conv2d(a, 8, 3),
        nn.ReLU(),
        nn.PixelShuffle(2),
        nn.Conv2d(2, 3, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ), (2, 6, 6)


def _noisy(r):
    a, b = _sizes(r, (3, 8), (3, 8))
    return Apply(
        lambda m, x: m.c(F.dropout(torch.sigmoid(m.b(torch.relu(m.a(x)))), 0.3)),
        a=nn.Linear(4, a),
        b=nn.Linear(a, b),
        c=nn.Linear(b, 3),
    ), (4,)


def _in_place(r):
    a, b = _sizes(r, (3, 8), (3, 8))

    def forward(m, x):
        y = m.a(x)
        z = F.relu(y, inplace=True)
        y = y + 0.5  # the same memory as z
        return m.c(torch.sigmoid(m.b(y)) + m.d(z))

    return Apply(forward, a=nn.Linear(4, a), b=nn.Linear(a, b), d=nn.Linear(a, b), c=nn.Linear(b, 3)), (4,)


class _Branching(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, a), nn.Tanh(), nn.Linear(a, b))
        self.head = nn.Linear(b, 3)

    def forward(self, x):
        x = self.body(x)
        return self.head(-x if x.sum() > 1e9 else x)


def _untraceable(r):
    return _Branching(*_sizes(r, (3, 8), (3, 8))), (4,)


def _weight_norm(r):
    a, b = _sizes(r, (3, 8), (3, 8))
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(a, b))
    return nn.Sequential(nn.Linear(4, a), nn.ReLU(), normed, nn.ReLU(), nn.Linear(b, 3)), (4,)


def _einsum(r):
    a, b = _sizes(r, (3, 8), (3, 8))
    return Apply(
        lambda m, x: torch.einsum("bta,ac->btc", torch.relu(m.b(torch.relu(m.a(x)))), m.last),
        a=nn.Linear(4, a),
        b=nn.Linear(a, b),
        last=nn.Parameter(torch.randn(b, 3)),
    ), (3, 4)


FAMILIES = {
    name.removeprefix("_"): make
    for name, make in list(globals().items())
    if name.startswith("_")
    and callable(make)
    and name not in ("_some", "_kill_heads", "_sizes", "_Branching")
    and not name.startswith("__")
}


def draw(family, seed):
    """Return a network of a family with random masks, and example inputs."""
    generator = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, shape = FAMILIES[family](generator)
        x = shape if isinstance(shape, torch.Tensor) else torch.randn(3, *shape)
        model.eval()
        with torch.no_grad():
            model(x)  # lazy layers take their sizes
        kill(model, generator)
        finish = model.__dict__.pop("finish", None)
        if finish is not None:
            finish(generator)
    return model, x
