"""A small neural network library in NumPy: each backward pass stands next to its forward pass.

`forward(x, training)` returns (y, cache). `backward(dy, cache)` is pure: it takes the gradient of
the loss with respect to y, and the cache of a forward in training, and returns (dx, grads), grads
in the order of `params`. Shapes: B rows of a batch, D columns in, H columns out.
"""

import numpy as np


class Linear:
    """y = x W + b, with W drawn from N(0, 1 / (3 D)), so a Tanh after it starts unsaturated."""

    def __init__(self, n_in, n_out, rng, dtype=np.float32):
        W = rng.standard_normal((n_in, n_out))
        W *= np.sqrt(1 / (3 * n_in))                       # in place: W can be 1 GB on large data
        self.W = W.astype(dtype)
        self.b = np.zeros(n_out, dtype)
        self.params = [self.W, self.b]

    def forward(self, x, training=False):                  # (B, D), (D, H), (H,) -> (B, H)
        return x @ self.W + self.b, x

    def backward(self, dy, x, input_grad=True):            # (B, H) -> (B, D), [(D, H), (H,)]
        """dx is None if not input_grad: the first layer does not need it, a large product."""
        dx = dy @ self.W.T if input_grad else None
        return dx, [x.T @ dy, dy.sum(0)]


class Rows:
    """A Linear that uses only some rows of W: x (B, len(rows)) is its input at these, 0 elsewhere.

    The gradient of these rows is a pair (x, dy), which stands for x.T @ dy. Adam multiplies it out
    in parts, so there is never a full copy of the rows or of their gradient in memory.
    """

    def __init__(self, linear, rows):
        self.linear = linear
        self.rows = rows
        self.params = linear.params

    def forward(self, x, training=False):
        """One row of x at a time: what it needs of W fits in the CPU's cache; zeros are skipped."""
        y = np.tile(self.linear.b, (len(x), 1))
        for n, values in enumerate(x):
            rows, values = self.rows[values != 0], values[values != 0]
            for part in even_slices(len(rows), 1024):
                y[n] += values[part] @ self.linear.W.take(rows[part], 0)
        return y, x

    def backward(self, dy, x, input_grad=False):
        return None, [(x, dy), dy.sum(0)]


class LeakyReLU:
    """y = x where x > 0, slope * x elsewhere."""

    params = []
    slope = 0.01

    def forward(self, x, training=False):
        """(B, D) -> (B, D); the cache holds the slope used at each value."""
        slopes = np.maximum(x > 0, x.dtype.type(self.slope))             # 1 or slope (< 1)
        return x * slopes, slopes

    def backward(self, dy, slopes):
        return dy * slopes, []


class Tanh:
    """y = tanh(x); dx = dy (1 - y^2)."""

    params = []

    def forward(self, x, training=False):
        y = np.tanh(x)
        return y, y

    def backward(self, dy, y):
        return dy * (1 - y * y), []


class Dropout:
    """In training, set values to 0 with probability `rate` and divide the others by 1 - rate."""

    params = []

    def __init__(self, rate, rng):
        self.rate = rate
        self.rng = rng

    def forward(self, x, training=False):
        """(B, D) -> (B, D); the cache is what x was multiplied by. At inference y = x."""
        if not training:
            return x, None
        keep = (self.rng.random(x.shape, np.float32) >= self.rate) / x.dtype.type(1 - self.rate)
        return x * keep, keep

    def backward(self, dy, keep):
        return dy * keep, []


class BatchNorm:
    """y = gain (x - mean) / sqrt(var + eps) + shift, for each column.

    Training uses the mean and variance of the batch and moves the running ones towards them by
    `momentum`. Inference uses the running ones, so an answer does not depend on the other rows.
    """

    eps = 1e-5

    def __init__(self, n, momentum=0.1, dtype=np.float32):
        self.gain = np.ones(n, dtype)
        self.shift = np.zeros(n, dtype)
        self.mean = np.zeros(n, dtype)
        self.var = np.ones(n, dtype)
        self.momentum = momentum
        self.params = [self.gain, self.shift]

    def forward(self, x, training=False):
        """(B, H) -> (B, H); the cache holds the normalised x and 1 / sqrt(var + eps), (H,)."""
        mean, var = self.mean, self.var
        if training:
            mean, var = x.mean(0), x.var(0)
            self.mean += self.momentum * (mean - self.mean)
            self.var += self.momentum * (var - self.var)
        scale = 1 / np.sqrt(var + self.eps)
        normal = (x - mean) * scale
        return self.gain * normal + self.shift, (normal, scale)

    def backward(self, dy, cache):
        """Gradients in training mode, where mean and variance depend on x as well."""
        normal, scale = cache
        dgain = (dy * normal).sum(0)                       # (H,)
        dshift = dy.sum(0)                                 # (H,)
        dx = self.gain * scale * (dy - (dshift + normal * dgain) / len(dy))
        return dx, [dgain, dshift]


class Sequential:
    """Layers applied in order; caches and gradients are lists in the same order."""

    def __init__(self, *layers):
        self.layers = layers
        self.params = [p for layer in layers for p in layer.params]

    def forward(self, x, training=False):
        """The output of the last layer, and the list of caches."""
        caches = []
        for layer in self.layers:
            x, cache = layer.forward(x, training)
            caches.append(cache)
        return x, caches

    def backward(self, dy, caches, input_grad=False):
        """dx, None unless input_grad, and all gradients; the first layer is a Linear or Rows."""
        grads = []
        for layer, cache in zip(self.layers[:0:-1], caches[:0:-1]):
            dy, layer_grads = layer.backward(dy, cache)
            grads = layer_grads + grads
        dx, layer_grads = self.layers[0].backward(dy, caches[0], input_grad)
        return dx, layer_grads + grads


def masked_mse(prediction, row, column, target, weight=1):
    """Weighted sum of squared errors over observed entries, divided by B, and its gradient.

    (B, C), (n,), (n,), (n,) -> (), (B, C). Entry i is target[i], at (row[i], column[i]), no
    cell twice; the gradient is 0 in other cells. weight: of each entry, (n,) or a number.
    """
    residual = prediction[row, column] - target            # (n,)
    gradient = np.zeros_like(prediction)
    gradient[row, column] = residual * weight * prediction.dtype.type(2 / len(prediction))
    return residual @ (residual * weight) / len(prediction), gradient


def multinomial(logits, row, column, weight=1):
    """Weighted negative log likelihood of entries under a softmax per row, / B; its gradient.

    (B, C), (n,), (n,) -> (), (B, C). Entries are distinct; weight: of each, (n,) or a number. A row
    whose weights sum to m has the gradient (m softmax(logits) - weight at its entries) / B.
    """
    logits = logits - logits.max(1, keepdims=True)         # the same softmax, without overflow
    p = np.exp(logits)
    total = p.sum(1)                                       # (B,)
    loss = (weight * (np.log(total)[row] - logits[row, column])).sum() / len(p)
    draws = np.bincount(row, np.broadcast_to(weight, row.shape), len(p))
    p *= (draws / (total * len(p))).astype(p.dtype)[:, None]
    p[row, column] -= weight / len(p)
    return loss, p


def cosine(progress):
    """Decay of the learning rate: from 1 at progress 0 to 0 at progress 1."""
    return (1 + np.cos(np.pi * progress)) / 2


class Adam:
    """Adam (Kingma and Ba, 2015) on a list of arrays p with penalties l2 |p|^2; l2: one or a list.

    With g including the 2 l2 p of that penalty: m = b1 m + g, v = b2 v + g^2,
    p -= rate * m (1 - b1) / (1 - b1^t) / (sqrt(v (1 - b2) / (1 - b2^t)) + eps).
    m and v are theirs divided by 1 - b1 and 1 - b2, which saves two passes over the arrays.
    """

    chunk = 1 << 15                                        # elements; fits the L2 cache: 1/3 faster

    def __init__(self, params, l2=0, b1=0.9, b2=0.999, eps=1e-8):
        assert all(p.flags.c_contiguous for p in params)   # a step works on flat views
        self.params = params
        self.l2 = l2 if isinstance(l2, list) else [l2] * len(params)
        self.b1, self.b2, self.eps = b1, b2, eps
        self.t = 0
        self.m = [np.zeros_like(p) for p in params]
        self.v = [np.zeros_like(p) for p in params]
        self.last = [np.zeros(len(p), int) for p in params]              # step of the last update

    def step(self, grads, rate, rows=None):
        """One update of the parameters in place; grads may be overwritten.

        rows: for each parameter, the indices of the rows that its gradient is for; None means all.
        """
        self.t += 1
        root = ((1 - self.b2) / (1 - self.b2 ** self.t)) ** 0.5
        # a NumPy float64 would make g *= rate work in float64: a step of 5.6 ms instead of 3.7
        rate = float(rate) * (1 - self.b1) / (1 - self.b1 ** self.t) / root
        for n, arrays in enumerate(zip(self.params, self.m, self.v, grads)):
            if rows and rows[n] is not None:
                self._step_rows(n, *arrays, rows[n], rate, self.eps / root)
                continue
            flat = [a.reshape(-1) for a in arrays]
            for start in range(0, flat[0].size, self.chunk):
                chunk = (a[start:start + self.chunk] for a in flat)
                self._move(*chunk, 2 * self.l2[n], self.eps / root, self.b1, self.b2, rate)

    def _move(self, p, m, v, g, l2, eps, b1, b2, rate, late=None):
        """The step of p, m and v, in place; g is used up. late: l2 * rate of the idle steps."""
        if l2:
            g += l2 * p
        m *= b1
        m += g
        g *= g
        v *= b2
        v += g
        np.sqrt(v, out=g)
        g += eps
        if l2 and late is not None:                        # (p - rate m / g) / (1 + late / g)
            p *= g
            g += late
            p /= g
        np.divide(m, g, out=g)
        g *= rate
        p -= g

    def _step_rows(self, n, p, m, v, g, rows, rate, eps):
        """Update some rows of parameter n; the others wait until they are touched.

        After s steps in which a row was left out, its m and v decay by b1^s and b2^s as well. Adam
        would move an idle row, too, by less each time; here it moves once, by as much as Adam would
        in this step and the next s, as if it will wait as long again. The penalty of the s steps is
        implicit, so it cannot overshoot 0.
        """
        last = self.last[n][rows]
        wait = np.where(last, self.t - 1 - last, 0).reshape(-1, *[1] * (p.ndim - 1))
        self.last[n][rows] = self.t
        l2 = 2 * self.l2[n]
        fade = self.b1 / self.b2 ** 0.5                    # an idle step's move / that of the last
        steps = wait + 1.0
        factors = [factor.astype(p.dtype) for factor in (
            self.b1 ** steps, self.b2 ** steps, rate * (1 - fade ** steps) / (1 - fade),
            l2 * rate / (1 - self.b1) * wait)]
        for part in even_slices(len(rows), max(1, self.chunk // max(1, p[0].size))):
            at = rows[part]
            moved = [a.take(at, 0) for a in (p, m, v)]
            grad = g[0][:, part].T @ g[1] if isinstance(g, tuple) else g[part]
            self._move(*moved, grad, l2, eps, *(factor[part] for factor in factors))
            p[at], m[at], v[at] = moved


def batches(model, rows, size, rng, R, params, progress):
    """Yield, for each batch of every epoch: some of `rows`, the share of training done, a list.

    The caller appends the error of the batch, summed over its ratings, to the list. After an epoch,
    mse, their sum / len(R), goes to progress(epoch, mse), if given. Raises FloatingPointError if
    training has diverged: the root of mse is at least 1 + twice the range of the ratings and 0, or
    a parameter at least 100 times that (mse does not cover the last step). Of the model, only
    epochs is read.
    """
    slices = even_slices(len(rows), size)
    most = 2 * (max(0, R.values.max()) - min(0, R.values.min())) + 1
    for epoch in range(model.epochs):
        order = rng.permutation(rows)
        errors = []
        for n, part in enumerate(slices):
            yield order[part], (epoch + n / len(slices)) / model.epochs, errors
        mse = sum(errors) / len(R.values)
        # written so that NaN counts as diverged
        if not (mse < most ** 2 and all(max(p.max(), -p.min()) < 100 * most for p in params)):
            raise FloatingPointError(f"training diverged in epoch {epoch + 1} "
                                     f"(mean squared error {mse:.3g}); use a lower learning rate")
        if progress:
            progress(epoch, mse)


def even_slices(n, size):
    """Slices that cut range(n) into parts of nearly equal length, at most size."""
    edges = np.linspace(0, n, -(-n // size) + 1).astype(int)
    return [slice(a, b) for a, b in zip(edges, edges[1:])]
