"""Matrix factorization (Section 2): truncated SVD, and the baselines SVD and BiasSVD.

Everything works on observed entries: memory grows with ratings + factors + one block of users.
"""

import numpy as np

from nn import Adam, cosine, masked_mse


def truncated_svd(R, k, seed=0):
    """The k leading singular triplets of R, entries not observed counting as 0 (Section 2.1).

    Returns U sqrt(S) (users, k) and sqrt(S) Vt (k, items), float32; what lies past the rank is 0.
    Randomised block Krylov iteration (Musco and Musco, 2015): the span of Q, (RtR) Q, (RtR)^2 Q... holds the
    leading right singular vectors, exact to 1e-4 in the singular values, in a fraction of a dense SVD's time.
    """
    n_users, n_items = R.shape
    Q = np.random.default_rng(seed).standard_normal((n_items, min(k + 10, n_items)), np.float32)
    powers = []
    for _ in range(8):
        Q = np.linalg.qr(sum(block.T @ (block @ Q) for block in R.dense_blocks()))[0]
        powers.append(Q)
    Q = np.linalg.qr(np.hstack(powers))[0]                    # (items, 8 (k + 10)) or (items, items)
    RQ = np.vstack([block @ Q for block in R.dense_blocks()])
    S2, W = np.linalg.eigh(RQ.T.astype(np.float64) @ RQ)      # R ~ (R Q) Qt and (R Q)t (R Q) = W S^2 Wt
    S2, W = S2[::-1][:k], W[:, ::-1][:, :k]
    S = np.sqrt(np.where(S2 > 1e-10 * S2[0], S2, 0))
    left, right = np.zeros((n_users, k), np.float32), np.zeros((k, n_items), np.float32)
    right[:len(S)] = np.sqrt(S)[:, None] * (W.T @ Q.T)
    left[:, :len(S)] = RQ @ (W / np.sqrt(np.where(S > 0, S, np.inf)))         # U sqrt(S) = R V / sqrt(S)
    return left, right


class BiasSVD:
    """h_ui = mu + bu_u + bi_i + p_u . q_i, by mini-batch gradient descent (Section 2.2).

    Minimises the squared error over the observed entries, plus for every user and every item, n being its
    number of ratings, sqrt(n) (l2 |factors|^2 + l2_bias bias^2): halfway between a penalty per row and one
    per rating. The factors start at `start` times the truncated SVD of R - mu. A mini-batch is a block of
    users with all their ratings, which makes a step three dense products; Adam takes the steps.
    Users without ratings keep p = 0 and bu = 0: placeholders (Section 4.2), predicted as mu + bi.
    """

    biased = True

    def __init__(self, n_factors=100, l2=1.2, l2_bias=0.3, epochs=20, rate=0.01, start=0.1, seed=0):
        self.n_factors, self.l2, self.l2_bias = n_factors, l2, l2_bias
        self.epochs, self.rate, self.start, self.seed = epochs, rate, start, seed

    def fit(self, R, progress=None):
        """Learns from R, a Ratings. progress(epoch, mean squared error) is called after each epoch."""
        rng = np.random.default_rng(self.seed)
        self.mu = R.values.mean()
        p, q = truncated_svd(R.with_values(R.values - self.mu), self.n_factors, self.seed)
        self.weight_i = np.sqrt(R.T.counts).astype(np.float32)
        self.p, self.q = self.start * p, self.start * np.ascontiguousarray(q.T)
        self.bu, self.bi = np.zeros(R.shape[0], np.float32), np.zeros(R.shape[1], np.float32)

        users = rng.permutation(np.flatnonzero(R.counts))     # dealt into blocks once, an Adam for each
        p, bu = self.p[users], self.bu[users]
        blocks = even_slices(len(users), 128)
        user_adams, item_adam = [Adam([p[b], bu[b]]) for b in blocks], Adam([self.q, self.bi])
        for epoch in range(self.epochs):
            loss = 0
            for n, at in enumerate(rng.permutation(len(blocks))):
                b, rate = blocks[at], self.rate * cosine((epoch + n / len(blocks)) / self.epochs)
                error, grads = self.gradients(R.rows(users[b]), p[b], bu[b], len(users[b]) / len(users))
                user_adams[at].step(grads[:2], 20 * rate)     # users step once an epoch, items once a block
                item_adam.step(grads[2:], rate)
                loss += error
            if progress:
                progress(epoch, loss / len(R))
        self.p[users], self.bu[users] = p, bu
        return self

    def gradients(self, ratings, p, bu, share):
        """Squared error of a block of B users, and the gradients of the loss / B by its p and bu, by q and bi.

        ratings is what Ratings.rows gives for the block; share is its part of the penalty on the items.
        """
        row, item, value = ratings
        mse, d = masked_mse(p @ self.q.T, row, item, value - self.mu - bu[row] - self.bi[item])    # d: (B, items)
        weight_u = np.sqrt(np.bincount(row, minlength=len(p))).astype(np.float32) * np.float32(2 / len(p))
        weight_i = self.weight_i * np.float32(share * 2 / len(p))
        dp = d @ self.q + self.l2 * weight_u[:, None] * p                      # (B, items), (items, k) -> (B, k)
        dq = d.T @ p + self.l2 * weight_i[:, None] * self.q                    # (items, B), (B, k) -> (items, k)
        dbu = d.sum(1) + self.l2_bias * weight_u * bu
        dbi = d.sum(0) + self.l2_bias * weight_i * self.bi
        if not self.biased:
            dbu[:], dbi[:] = 0, 0
        return mse * len(p), [dp, dbu, dq, dbi]

    def predict(self, users, items):
        """Ratings (n,) of the pairs users[i], items[i], not clipped."""
        return self.mu + self.bu[users] + self.bi[items] + paired_dot(self.p, self.q, users, items)


class SVD(BiasSVD):
    """h_ui = mu + p_u . q_i: factors of the matrix filled with mu, then gradient descent (Section 2.1).

    Filling with mu and taking mu off leaves 0, so the SVD of the filled matrix is that of R - mu, plus mu.
    """

    biased = False

    def __init__(self, n_factors=100, l2=1.2, epochs=20, rate=0.01, start=1.0, seed=0):
        super().__init__(n_factors, l2, 0, epochs, rate, start, seed)


class Ratings:
    """Observed entries of a (users x items) matrix, sorted by user, then by item.

    users, items: (n,) int32; values: (n,) float32; counts: ratings of each user;
    row u is the slice starts[u]:starts[u + 1]. `T` is the matrix with users and items exchanged.
    """

    def __init__(self, users, items, values, shape):
        order = np.lexsort((items, users))
        self.users = np.asarray(users, np.int32)[order]
        self.items = np.asarray(items, np.int32)[order]
        self.values = np.asarray(values, np.float32)[order]
        self.shape = shape
        self.counts = np.bincount(self.users, minlength=shape[0])
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])

    def __len__(self):
        return len(self.values)

    @property
    def T(self):
        return Ratings(self.items, self.users, self.values, self.shape[::-1])

    def where(self, keep):
        """The ratings picked by a boolean mask or an index, in a matrix of the same shape."""
        return Ratings(self.users[keep], self.items[keep], self.values[keep], self.shape)

    def with_values(self, values):
        """Other values (n,) at the same places."""
        return Ratings(self.users, self.items, values, self.shape)

    def rows(self, users):
        """Entries of some rows: position in users (n,), items (n,), values (n,)."""
        sizes = self.counts[users]
        first = np.cumsum(sizes) - sizes                      # where each row begins in the result
        at = np.repeat(self.starts[users] - first, sizes) + np.arange(sizes.sum())
        return np.repeat(np.arange(len(users)), sizes), self.items[at], self.values[at]

    def dense_blocks(self, size=512):
        """The matrix in blocks (size, items) of rows, one after another, 0 where nothing is observed."""
        for start in range(0, self.shape[0], size):
            row, item, value = self.rows(np.arange(start, min(start + size, self.shape[0])))
            block = np.zeros((min(size, self.shape[0] - start), self.shape[1]), np.float32)
            block[row, item] = value
            yield block


def even_slices(n, size):
    """Slices that cut range(n) into parts of nearly one length, at most size."""
    edges = np.linspace(0, n, -(-n // size) + 1).astype(int)
    return [slice(a, b) for a, b in zip(edges, edges[1:])]


def paired_dot(p, q, users, items):
    """p[users[i]] . q[items[i]] for each i: (users, k), (items, k), (n,), (n,) -> (n,)."""
    parts = even_slices(len(users), 1 << 14)                  # a gather of all pairs would need n x k
    return np.concatenate([np.einsum("nk,nk->n", p[users[s]], q[items[s]]) for s in parts] or [np.zeros(0, p.dtype)])
