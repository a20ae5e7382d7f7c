"""LFG (Liu and Mi): a network that generates a user's latent factors from ratings and profile in one forward pass."""

import numpy as np

from nn import Adam, BatchNorm, Dropout, LeakyReLU, Linear, Sequential, Tanh, cosine, masked_mse
from svd import even_slices, paired_dot, truncated_svd


class LFG:
    """H_pred = U_G M + bu_G + bi_T + mu, where (U_G, bu_G) = network(I) and I = [E, mask(H)].

    The network, M (factors x items, started from the truncated SVD) and bi are trained together on the
    observed entries. A user is never stored: `generate` makes the factors of anyone, seen in training or not.
    Loss of a batch of B users: squared error over observed entries / B + l2 |W|^2 + l2_M |M|^2. An entry that the
    input shows (not masked) weighs shown_weight, 1 in the paper: less, and the network learns to predict, not to copy.

    The generator is symmetric: fit(R.T, F), F the items' own columns, generates the factors of items (LFG-item). Read
    "item" for "user" and "user" for "item" below; M (factors x users) then holds the trained users.

    mask: a probability, or (low, high): then each user of a batch draws one between, and the network learns to answer
    short profiles, too. raw: the paper's letter, H and the SVD that M starts from are of the ratings as they are.
    """

    def __init__(self, n_factors=50, hidden=(256,), l2=0.005, l2_M=0.2, mask=0.1, dropout=0.5, svd_rows=50,
                 shown_weight=1.0, raw=False, epochs=40, rate=3e-3, batch=128, seed=0, dtype=np.float32):
        self.n_factors, self.hidden, self.l2, self.l2_M = n_factors, hidden, l2, l2_M
        self.mask, self.shown_weight, self.dropout, self.svd_rows, self.raw = mask, shown_weight, dropout, svd_rows, raw
        self.epochs, self.rate, self.batch, self.seed, self.dtype = epochs, rate, batch, seed, dtype

    def fit(self, R, E, progress=None):
        """Learns from R, a Ratings, and E (users, columns); progress(epoch, mean squared error) is called each epoch.

        Input and target of a user are the same training ratings, each zeroed in the input with probability `mask`.
        """
        rng = np.random.default_rng(self.seed)
        self.start(R, E.shape[1], rng)
        users, params = np.flatnonzero(R.counts), self.network.params + [self.M, self.bi]
        adam = Adam(params, l2=[self.l2 * (p.ndim == 2) for p in self.network.params] + [self.l2_M, 0])
        batches = even_slices(len(users), self.batch)
        for epoch in range(self.epochs):
            loss = 0
            order = rng.permutation(users)
            for n, b in enumerate(batches):
                row, item, value = R.rows(order[b])
                hide = self.mask if np.isscalar(self.mask) else rng.uniform(*self.mask, len(order[b]))[row]
                kept = rng.random(len(row), np.float32) >= hide
                x = self.encode(row[kept], item[kept], value[kept], E[order[b]])
                weight = np.where(kept, self.shown_weight, 1).astype(self.dtype)
                mse, grads = self.gradients(x, row, item, value, weight)
                adam.step(grads, self.rate * cosine((epoch + n / len(batches)) / self.epochs))
                loss += mse * len(x)
            if progress:
                progress(epoch, loss / len(R))
        return self

    def start(self, R, n_side, rng):
        """Everything before the first step: mu, item means, the network, M from the SVD, bi from 0."""
        self.mu = R.values.mean()
        # an item's mean deviation from mu, shrunk as by five ratings at 0: "not rated" and "as expected" then agree
        sums, counts = np.bincount(R.items, R.values - self.mu, R.shape[1]), np.bincount(R.items, minlength=R.shape[1])
        self.expected = (sums / (counts + 5)).astype(self.dtype)
        widths = [n_side + (1 if self.raw else 2) * R.shape[1], *self.hidden]
        layers = []
        for n, (n_in, n_out) in enumerate(zip(widths, widths[1:])):
            layers += [Linear(n_in, n_out, rng, self.dtype), LeakyReLU()]
            layers += [BatchNorm(n_out, dtype=self.dtype)] if n == 0 else []
            layers += [Dropout(self.dropout, rng)] if self.dropout else []
        self.network = Sequential(*layers, Linear(widths[-1], self.n_factors + 1, rng, self.dtype), Tanh())
        if self.raw:
            self.M = truncated_svd(R, self.n_factors, self.seed)[1].astype(self.dtype)
        else:
            self.M = (0.01 * rng.standard_normal((self.n_factors, R.shape[1]))).astype(self.dtype)
            rows = min(self.svd_rows, self.n_factors)
            residual = R.values - self.mu - self.expected[R.items]
            self.M[:rows] = 0.3 * truncated_svd(R.with_values(residual), rows, self.seed)[1]
        self.bi = np.zeros(R.shape[1], self.dtype)

    def encode(self, row, item, value, E):
        """The network's input I = [E, H, 1[H]] of the rows of a batch: (B, columns + 2 items).

        H holds the ratings minus mu and the item's mean deviation; H and its 0/1 indicator are divided by
        the root of the user's number of ratings, so that their lengths do not depend on it. raw: [E, ratings].
        """
        n_side, n_items = E.shape[1], len(self.bi)
        x = np.zeros((len(E), n_side + (1 if self.raw else 2) * n_items), self.dtype)
        x[:, :n_side] = E
        if self.raw:
            x[row, n_side + item] = value
            return x
        scale = (1 / np.sqrt(np.maximum(1, np.bincount(row, minlength=len(E)))))[row].astype(self.dtype)
        x[row, n_side + item] = (value - self.mu - self.expected[item]) * scale
        x[row, n_side + n_items + item] = scale
        return x

    def gradients(self, x, row, item, value, weight=1):
        """Squared error / B of a batch and its gradients by the network's parameters, M and bi."""
        G, caches = self.network.forward(x, training=True)    # (B, k + 1)
        U_G, bu_G = G[:, :-1], G[:, -1]
        target = value - self.mu - bu_G[row] - self.bi[item]
        mse, d = masked_mse(U_G @ self.M, row, item, target, weight)           # d: (B, items)
        dG = np.hstack([d @ self.M.T, d.sum(1, keepdims=True)])                # (B, items) -> (B, k + 1)
        return mse, self.network.backward(dG, caches) + [U_G.T @ d, d.sum(0)]

    def generate(self, R, E):
        """User factors U_G (users, k) and biases bu_G (users,) from the ratings R and E (users, columns): one pass."""
        parts = []
        for b in even_slices(len(E), 512):
            users = np.arange(b.start, b.stop)
            parts.append(self.network.forward(self.encode(*R.rows(users), E[users]))[0])
        G = np.vstack(parts)
        return G[:, :-1], G[:, -1]

    def predict(self, users, items, R, E):
        """Ratings (n,) of the pairs users[i], items[i], not clipped; R holds what the users have rated."""
        user_factors, user_bias = self.generate(R, E)
        return self.mu + user_bias[users] + self.bi[items] + paired_dot(user_factors, self.M.T, users, items)
