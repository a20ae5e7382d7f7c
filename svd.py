"""Matrix factorization (Section 2): truncated SVD, the baselines SVD, BiasSVD and SVD++, and fold-in of new users.

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
    """h_ui = mu + bu_u + bi_i + p_u . q_i, by mini-batch gradient descent.

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

    @np.errstate(over="ignore", invalid="ignore")             # report tells of a training that diverges
    def fit(self, R, progress=None):
        """Learns from R, a Ratings. progress(epoch, mean squared error) is called after each epoch."""
        rng = np.random.default_rng(self.seed)
        self.mu = R.mean()
        p, q = truncated_svd(R.with_values(R.values - self.mu), self.n_factors, self.seed)
        self.weight_i = np.sqrt(np.bincount(R.items, minlength=R.shape[1])).astype(np.float32)
        self.p, self.q = self.start * p, self.start * np.ascontiguousarray(q.T)
        self.bu, self.bi = np.zeros(R.shape[0], np.float32), np.zeros(R.shape[1], np.float32)

        users = rng.permutation(np.flatnonzero(R.counts))     # dealt into blocks once, an Adam for each
        p, bu = self.p[users], self.bu[users]
        blocks = even_slices(len(users), 128)
        user_adams, item_adam = [Adam([p[b], bu[b]]) for b in blocks], Adam(self.item_params())
        for epoch in range(self.epochs):
            loss = 0
            for n, at in enumerate(rng.permutation(len(blocks))):
                b, rate = blocks[at], self.rate * cosine((epoch + n / len(blocks)) / self.epochs)
                error, grads = self.gradients(R.rows(users[b]), p[b], bu[b], len(users[b]) / len(users))
                user_adams[at].step(grads[:2], 20 * rate)     # users step once an epoch, items once a block
                item_adam.step(grads[2:], rate)
                loss += error
            report(progress, epoch, loss / len(R), R.values, [p, bu, *self.item_params()])
        self.p[users], self.bu[users] = p, bu
        return self

    def item_params(self):
        """The arrays that every block steps, in the order of gradients()[1][2:]."""
        return [self.q, self.bi]

    def gradients(self, ratings, p, bu, share):
        """Squared error of a block of B users, and the gradients of the loss / B by its p and bu and by item_params.

        ratings is what Ratings.rows gives for the block; share is its part of the penalty on the items.
        """
        row, item, value = ratings
        N, z = self.implicit(row, item, len(p))
        x = p + z                                             # (B, k)
        mse, d = masked_mse(x @ self.q.T, row, item, value - self.mu - bu[row] - self.bi[item])    # d: (B, items)
        weight_u = np.sqrt(np.bincount(row, minlength=len(p))).astype(p.dtype) * p.dtype.type(2 / len(p))
        weight_i = self.weight_i * p.dtype.type(share * 2 / len(p))
        dx = d @ self.q                                       # (B, items), (items, k) -> (B, k)
        dp = dx + self.l2 * weight_u[:, None] * p
        dq = d.T @ x + self.l2 * weight_i[:, None] * self.q   # (items, B), (B, k) -> (items, k)
        dbu = (d.sum(1) + self.l2_bias * weight_u * bu) * self.biased
        dbi = (d.sum(0) + self.l2_bias * weight_i * self.bi) * self.biased
        return mse * len(p), [dp, dbu, dq, dbi] + self.implicit_gradients(N, dx, weight_i)

    def implicit(self, row, item, n_users):
        """What SVD++ adds to p: nothing here."""
        return None, 0

    def implicit_gradients(self, N, dx, weight_i):
        """Gradients by the parameters of implicit(): none here."""
        return []

    def predict(self, users, items):
        """Ratings (n,) of the pairs users[i], items[i], not clipped."""
        return self.mu + self.bu[users] + self.bi[items] + paired_dot(self.p, self.q, users, items)


def report(progress, epoch, mse, values, params):
    """Calls progress(epoch, mse), if there is one; raises DataError when training on values (n,) has diverged: when
    predictions are off by more than `most`, or the last step, of which mse does not know, left a parameter far beyond.
    """
    most = 2 * (max(0, values.max()) - min(0, values.min())) + 1
    if not (mse < most ** 2 and all(np.abs(p).max() < 100 * most for p in params)):           # nor NaN
        raise DataError(f"training diverged: a mean squared error of {mse:.3g} in epoch {epoch + 1}; lower the rate")
    if progress:
        progress(epoch, mse)


class SVD(BiasSVD):
    """h_ui = mu + p_u . q_i: factors of the matrix filled with mu, then gradient descent (Section 2.1).

    Filling with mu and taking mu off leaves 0, so the SVD of the filled matrix is that of R - mu, plus mu.
    """

    biased = False

    def __init__(self, n_factors=100, l2=1.2, epochs=20, rate=0.01, start=1.0, seed=0):
        super().__init__(n_factors, l2, 0, epochs, rate, start, seed)


class SVDpp(BiasSVD):
    """SVD++ (Koren, 2008): h_ui = mu + bu_u + bi_i + (p_u + z_u) . q_i, z_u = sum of y_j / sqrt(n_u) over rated items.

    For a block of users the sums are one product: N (B, items), 1 / sqrt(n_u) where u rated the item, times y.
    """

    def fit(self, R, progress=None):
        """As BiasSVD's; p ends up as p + z, since what follows needs their sum only."""
        self.y = np.zeros((R.shape[1], self.n_factors), np.float32)
        super().fit(R, progress)
        self.p += self.z(R)
        return self

    def item_params(self):
        return [self.q, self.bi, self.y]

    def implicit(self, row, item, n_users):
        """N (B, items) and z (B, k) of a block of users."""
        N = np.zeros((n_users, len(self.y)), self.y.dtype)
        N[row, item] = (1 / np.sqrt(np.maximum(1, np.bincount(row, minlength=n_users))))[row]
        return N, N @ self.y

    def implicit_gradients(self, N, dx, weight_i):
        return [N.T @ dx + self.l2 * weight_i[:, None] * self.y]              # (items, B), (B, k) -> (items, k)

    def z(self, R):
        """The implicit part (users, k) of any users, trained on or not, from what they rated in R."""
        blocks = [np.arange(b.start, b.stop) for b in even_slices(R.shape[0], 512)]
        return np.vstack([self.y[:0]] + [self.implicit(*R.rows(b)[:2], len(b))[1] for b in blocks])


@np.errstate(invalid="ignore")                                # BLAS may raise the flag for lanes that it throws away
def fold_in(R, q, bi, mu, l2, l2_bias, centre=0, centre_bias=0):
    """Factors and biases of users that no training has seen, from their ratings: a ridge solve each, in closed form.

    For each row of R with ratings h_i: the p, b that minimise
    sum_i (h_i - mu - b - bi_i - p . q_i)^2 + l2 |p - centre|^2 + l2_bias (b - centre_bias)^2, both strengths above 0.
    q: (items, k), bi: (items,), centre: (users, k), (k,) or 0. Returns (users, k), (users,); a user without
    ratings gets the centre and centre_bias.
    """
    k, dtype = q.shape[1], q.dtype
    x = np.empty((R.shape[0], k + 1), dtype)
    x[:, :k], x[:, k] = centre, centre_bias
    ridge = np.append(np.full(k, l2, dtype), dtype.type(l2_bias))
    q1 = np.hstack([q, np.ones((len(q), 1), dtype)])          # the bias is the factor of a column of ones
    for u in np.flatnonzero(R.counts):
        row = slice(R.starts[u], R.starts[u + 1])
        A = q1[R.items[row]]                                  # (n, k + 1)
        x[u] += ridge_solve(A, R.values[row] - mu - bi[R.items[row]] - A @ x[u], ridge)
    return x[:, :k], x[:, k]


def mean_row(R, q, bi, mu, l2, l2_bias):
    """(k + 1,): the mean factors and, last, the mean bias of the users of R who rated, folded into (q, bi)."""
    p, bu = fold_in(R, q, bi, mu, l2, l2_bias)
    return np.hstack([p, bu[:, None]])[R.counts > 0].mean(0)


def ridge_solve(A, residual, ridge):
    """The x (k,) that minimises |residual - A x|^2 + ridge . x^2: A (n, k), residual (n,), ridge (k,) above 0."""
    if len(A) >= A.shape[1]:
        return np.linalg.solve(A.T @ A + np.diag(ridge), A.T @ residual)
    At = A.T / ridge[:, None]                                 # the same x, by a system of n instead of k equations
    return At @ np.linalg.solve(A @ At + np.eye(len(A), dtype=A.dtype), residual)


class DataError(Exception):
    """A user's mistake, in data, a file or an option; the message is one line: what, where, what to do."""

    def __init__(self, message):
        super().__init__(" ".join(message.splitlines()))


class Ratings:
    """Observed entries of a (users x items) matrix, sorted by user, then by item.

    users, items: (n,) int32; values: (n,) float32; counts: ratings of each user;
    row u is the slice starts[u]:starts[u + 1]. `T` is the matrix with users and items exchanged.
    Raises DataError when a rating lies outside of the shape, is not finite, or when a pair is rated twice.
    """

    def __init__(self, users, items, values, shape):
        if not len(users) == len(items) == len(values):
            raise DataError(f"{len(users)} users, {len(items)} items, {len(values)} ratings; give one of each a rating")
        order = np.lexsort((items, users))
        self.users = np.asarray(users, np.int32)[order]
        self.items = np.asarray(items, np.int32)[order]
        self.values = np.asarray(values, np.float32)[order]
        self.shape = shape
        twice = (self.users[1:] == self.users[:-1]) & (self.items[1:] == self.items[:-1])
        inside = [((0 <= a) & (a < n)).all() for a, n in zip((self.users, self.items), shape)]
        if not (all(inside) and np.isfinite(self.values).all()) or twice.any():
            raise DataError(f"ratings outside of {shape}, not finite, or of one user and item twice; correct them")
        self.counts = np.bincount(self.users, minlength=shape[0])
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])

    def __len__(self):
        return len(self.values)

    def mean(self):
        """The mean rating. Raises DataError where there is none."""
        if not len(self):
            raise DataError("no ratings to learn from; give some")
        return self.values.mean()

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
