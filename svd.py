"""Matrix factorization (Section 2), fold-in of new users, and the baselines, lists included.

Every model here and in lfg.py keeps one contract (those that only order need no `predict`).
R and `shown` are data.Ratings (users, items); read that class first:

    model.fit(R, E, F, progress)             E: (users, a), F: (items, b): side information, or None
    model.predict(users, items, shown, E)    (n,): ratings of pairs users[i], items[i], not clipped
    model.scores(users, shown, E)            (len(users), items): the same for every item

`shown` holds what each user has rated: for known users the training ratings, for new users the
ratings they give. A model that holds others fits only those that are not fitted: make new ones for
other data. progress(epoch, mse) is called after each epoch; FloatingPointError is raised if
training diverges. Memory grows with ratings + factors + one block of users (EASE: items x items).
"""

from copy import copy
from dataclasses import dataclass

import numpy as np

from nn import Adam, Dropout, Linear, Sequential, Tanh
from nn import batches, cosine, even_slices, masked_mse, multinomial


def truncated_svd(R, k, seed=0):
    """The k leading singular triplets of R, entries not observed counting as 0 (Section 2.1).

    Returns U sqrt(S) (users, k) and sqrt(S) Vt (k, items), float32; beyond the rank they are 0.
    Randomised block Krylov iteration (Musco and Musco, 2015): the span of (RtR) Q, (RtR)^2 Q...
    for a random Q nearly holds the leading right singular vectors; S of ML-100k is exact to 1e-5.
    """
    n_users, n_items = R.shape
    Q = np.random.default_rng(seed).standard_normal((n_items, min(k + 10, n_items)), np.float32)
    blocks = (128, True) if few_columns(R, 128) else (512, False)        # arguments of R.blocks
    powers = []
    for _ in range(8):
        product = np.zeros_like(Q)
        for block, columns in R.blocks(*blocks):
            product[columns] += block.T @ (block @ Q[columns])
        Q = orthonormal(product)
        powers.append(Q)
    Q = orthonormal(np.hstack(powers))                     # (items, 8 (k + 10)) or (items, items)
    RQ = np.vstack([block @ Q[columns] for block, columns in R.blocks(*blocks)])
    # R ~ (R Q) Qt, and (R Q)t (R Q) = W S^2 Wt gives S and V = Q W
    S2, W = np.linalg.eigh(RQ.T.astype(np.float64) @ RQ)
    S2 = S2[::-1][:k]
    W = W[:, ::-1][:, :k]
    S = np.sqrt(np.where(S2 > 1e-10 * S2[0], S2, 0))
    left = np.zeros((n_users, k), np.float32)
    right = np.zeros((k, n_items), np.float32)
    left[:, :len(S)] = RQ @ (W / np.sqrt(np.where(S > 0, S, np.inf)))    # U sqrt(S) = R V / sqrt(S)
    right[:len(S)] = np.sqrt(S)[:, None] * (W.T @ Q.T)
    return left, right


def orthonormal(A, size=1 << 16):
    """Q (n, min(n, m)) of the QR decomposition of A (n, m), in parts of at most `size` >= 2 m rows.

    NumPy decomposes in float64: in one part, LFG-item of ML-20M's shape took 4.5 GB instead of 3.4.
    """
    parts = [np.linalg.qr(A[part]) for part in even_slices(len(A), size)]
    joined = np.linalg.qr(np.vstack([R for _, R in parts]))[0]           # A = diag(Q) joined R'
    return np.vstack([Q @ part for (Q, _), part in zip(parts, np.split(joined, len(parts)))])


def few_columns(R, size):
    """Whether `size` rows with ratings are expected to rate less than 45 % of the columns of R."""
    often = np.bincount(R.items, minlength=R.shape[1]) / max(1, np.count_nonzero(R.counts))
    return np.mean(1 - (1 - often) ** size) < 0.45


class FactorModel:
    """What the models share: the rating of user u for item i is base_i + x_u . q1_i.

    fit sets q1 (items, k + 1), item factors with a last column that the user's bias multiplies,
    and base (items,), mu + bi. user_factors(users, shown, E) gives x (len(users), k + 1), factors
    and, last, the bias of each user: trained, solved or generated.
    """

    def predict(self, users, items, shown=None, E=None):
        """Ratings (n,) of the pairs users[i], items[i], not clipped."""
        rows, at = np.unique(users, return_inverse=True)
        return self.base[items] + paired_dot(self.user_factors(rows, shown, E), self.q1, at, items)

    def scores(self, users, shown=None, E=None):
        """Ratings (len(users), items) of all items, in one product."""
        return self.base + self.user_factors(users, shown, E) @ self.q1.T

    def variance(self, items, values, x, asked):
        """a and b (m,) of the variance a sigma^2 + b of ratings (see Noise), here 1 and 0."""
        return np.ones_like(self.base[asked]), np.zeros_like(self.base[asked])

    def variance_terms(self, users, items, shown, E=None):
        """a and b (n,) of variance, for the pairs users[i], items[i]."""
        a, b = np.empty((2, len(users)))
        rows = np.unique(users)
        for u, x in zip(rows, self.user_factors(rows, shown, E)):
            pairs = np.flatnonzero(users == u)
            a[pairs], b[pairs] = self.variance(*shown.of(u), x, items[pairs])
        return a, b


@dataclass(eq=False)
class BiasSVD(FactorModel):
    """h_ui = mu + bu_u + bi_i + p_u . q_i, by mini-batch gradient descent.

    Minimises the squared error over the observed entries, plus sqrt(n) (l2 |factors|^2 + l2_bias
    bias^2) for every user and every item with n ratings. A mini-batch is a block of users with all
    their ratings: three dense products. Users without ratings keep p = 0 and bu = 0 (Section 4.2).
    """

    n_factors: int = 100
    l2: float = 1.2
    l2_bias: float = 0.3
    epochs: int = 20
    rate: float = 0.01                                     # learning rate; for users, 20 times this
    start: float = 0.1                                     # p and q start at the SVD times this
    seed: int = 0
    of_items = ("q", "bi")                                 # names of the parameters of items

    @np.errstate(over="ignore", invalid="ignore")          # batches reports divergence
    def fit(self, R, E=None, F=None, progress=None):
        """Learn from R; E and F are not used."""
        self.unit = unit_of(R)
        R = R.with_values(R.values / self.unit)            # inside, ratings span four units
        rng = np.random.default_rng(self.seed)
        self.start_training(R)
        users = rng.permutation(np.flatnonzero(R.counts))  # dealt into blocks only once
        p, bu = self.p[users], self.bu[users]
        blocks = even_slices(len(users), 128)
        user_adams = [Adam([p[b], bu[b]]) for b in blocks]
        items = [getattr(self, name) for name in self.of_items]
        item_adam = Adam(items)
        self.sparse = few_columns(R, 128)
        if self.sparse:                                    # blocks that rate an item penalise it
            times = np.bincount(np.concatenate([np.unique(R.rows(users[b])[1]) for b in blocks]),
                                minlength=R.shape[1])
            self.root_n *= (len(blocks) / np.maximum(1, times)).astype(np.float32)
        params = [p, bu, *items]
        for (at,), done, errors in batches(self, range(len(blocks)), 1, rng, R, params, progress):
            b = blocks[at]
            part, ratings, rows = self.part(*R.rows(users[b]))
            error, grads = part.gradients(ratings, p[b], bu[b], len(users[b]) / len(users))
            rate = self.rate * cosine(done)
            user_adams[at].step(grads[:2], 20 * rate)      # a user steps once per epoch,
            item_adam.step(grads[2:], rate, rows)          # an item once per block
            errors.append(error)
        self.p[users], self.bu[users] = p, bu
        self.q1 = with_ones(self.q)
        self.base = self.unit * (self.mu + self.bi)
        return self

    def start_training(self, R):
        """Initial values: mu, factors from the truncated SVD of R - mu, biases of 0."""
        self.mu = R.values.mean()
        p, qt = truncated_svd(R.with_values(R.values - self.mu), self.n_factors, self.seed)
        self.p = self.start * p                            # (users, k)
        self.q = self.start * np.ascontiguousarray(qt.T)   # (items, k)
        self.bu = np.zeros(R.shape[0], np.float32)
        self.bi = np.zeros(R.shape[1], np.float32)
        self.root_n = np.sqrt(np.bincount(R.items, minlength=R.shape[1])).astype(np.float32)

    def part(self, row, item, value):
        """A model of only the items that a block rates, the ratings renumbered, rows for Adam."""
        if not self.sparse:
            return self, (row, item, value), None
        columns, item = np.unique(item, return_inverse=True)
        part = copy(self)
        for name in ("root_n", *self.of_items):
            setattr(part, name, getattr(self, name).take(columns, 0))
        return part, (row, item, value), [columns] * len(self.of_items)

    def gradients(self, ratings, p, bu, share):
        """Squared error of a block of B users; gradients of the loss / B: p, bu and of_items.

        ratings: as Ratings.rows gives them; p (B, k) and bu (B,) are those of the block. share: the
        part of the penalty on items that falls to this block.
        """
        error, grads = self.error_gradients(*ratings, p, bu)
        n_rated = np.bincount(ratings[0], minlength=len(p))
        weights = np.sqrt(n_rated).astype(p.dtype), self.root_n * p.dtype.type(share)
        items = [getattr(self, name) for name in self.of_items]
        for n, (param, grad) in enumerate(zip([p, bu, *items], grads)):
            weight = weights[n > 1] * p.dtype.type(2 / len(p))           # of a user or of an item
            l2 = self.l2 * weight[:, None] if param.ndim == 2 else self.l2_bias * weight
            grad += l2 * param
        return error, grads

    def error_gradients(self, row, item, value, p, bu):
        """Squared error of a block, and the gradients of that / B, without penalties."""
        target = value - self.mu - bu[row] - self.bi[item]
        mse, d = masked_mse(p @ self.q.T, row, item, target)             # d: (B, items)
        return mse * len(p), [d @ self.q, d.sum(1), d.T @ p, d.sum(0)]

    def user_factors(self, users, shown=None, E=None):
        """x (len(users), k + 1): the trained p and bu, times the unit; `shown`, E are not read."""
        return self.unit * np.hstack([self.p[users], self.bu[users, None]])


@dataclass(eq=False)
class SVD(BiasSVD):
    """h_ui = mu + p_u . q_i: SVD of R filled with mu, minus mu, then descent (Section 2.1)."""

    start: float = 1.0

    def gradients(self, ratings, p, bu, share):
        """Like BiasSVD's, with gradients of 0 for the biases, which stay at 0."""
        error, (dp, dbu, dq, dbi) = super().gradients(ratings, p, bu, share)
        return error, [dp, 0 * dbu, dq, 0 * dbi]


class SVDpp(BiasSVD):
    """SVD++ (Koren, 2008): h_ui = mu + bu_u + bi_i + (p_u + z_u) . q_i.

    z_u: sum of y_j / sqrt(n_u) over the n_u items j that u rated. For a block of users it is one
    product, N y: N (B, items) is 1 / sqrt(n_u) where u rated the item.
    """

    of_items = ("q", "bi", "y")

    def fit(self, R, E=None, F=None, progress=None):
        """As BiasSVD's; p ends up as p + z: predictions need only their sum."""
        self.y = np.zeros((R.shape[1], self.n_factors), np.float32)
        super().fit(R, progress=progress)
        for u in np.flatnonzero(R.counts):
            self.p[u] += self.implicit_row(R.of(u)[0])[:-1] / self.unit
        return self

    def error_gradients(self, row, item, value, p, bu):
        """Like BiasSVD's, with p + z in place of p, and last the gradient with respect to y."""
        N = np.zeros((len(p), len(self.y)), p.dtype)
        N[row, item] = 1 / np.sqrt(np.bincount(row)[row])
        error, grads = super().error_gradients(row, item, value, p + N @ self.y, bu)
        return error, [*grads, N.T @ grads[0]]

    def implicit_row(self, items):
        """[z, 0] (k + 1,), times the unit, of any user, from the items that they rated."""
        z = self.y[items].sum(0) / np.sqrt(max(1, len(items)))
        return self.unit * np.append(z, z.dtype.type(0))


@dataclass(eq=False)
class FoldIn(FactorModel):
    """A factor model that finds each user's row by ridge regression from what they have shown.

    The row x of a user, factors and bias, minimises

        sum_i (h_ui - base_i - x . q1_i)^2 / v_i + sum_j ridge_j (x_j - c_j)^2

    v_i: how noisy the ratings of item i are, 1 on average. c = z W: what is to be expected of a
    user, from their profile and from which items they rated (prior_features). Items are folded in,
    too. model: fitted or not; l2, l2_bias: the ridge of a user's factors and bias; l2_item: that of
    an item's factors; strength: that of W's regression; all above 0. centre: a function that gives
    c (k + 1,) for the items a user rated, in place of the prior; then v is 1 and items do not move.
    """

    model: FactorModel
    l2: float
    l2_bias: float
    l2_item: float = 3.0
    strength: float = 100.0
    centre: object = None
    like = None                                            # where likes begin, if z has them

    def fit(self, R, E=None, F=None, progress=None):
        """Fit the model unless it is fitted, then find v, W and the rows of the items."""
        ensure_fitted(self.model, R, E, F, progress)
        return self.solve_into(self.model.q1, self.model.base, self.model.unit, R, E)

    def solve_into(self, q1, base, unit, R, E):
        """As fit, from item factors q1 (items, k + 1) and base (items,); R and E: for training."""
        E = side_of(R, E)
        self.q1 = q1
        self.base = base
        self.ridge = np.array([self.l2] * (q1.shape[1] - 1) + [self.l2_bias], q1.dtype)
        self.noise = np.ones(len(q1), q1.dtype)
        self.W = None
        if self.centre is None:
            # 1. solve the users without a prior: residuals give v, rows a first W
            x = self.user_factors(np.arange(len(E)), R, E)
            squares = (R.values - base[R.items] - paired_dot(x, q1, R.users, R.items)) ** 2
            # in units of their mean, as if each item had 20 more of average size
            sums = np.bincount(R.items, squares / (squares.mean() or 1), R.shape[1]) + 20
            counts = np.bincount(R.items, minlength=R.shape[1]) + 20
            self.noise = (sums / counts).astype(q1.dtype)
            self.W = self.regress(x, R, E)
            # 2. solve them with both, fold in the items among them, and find W again
            x = self.user_factors(np.arange(len(E)), R, E)
            self.fold_in_items(R.T, x, unit)
            self.W = self.regress(x, R, E)
        return self

    def regress(self, x, R, E):
        """W, so that z W is the mean of the rows x (users, k + 1) of those who rated, given z."""
        users = np.flatnonzero(R.counts)
        part = random_part(R, np.random.default_rng(0))
        # where nothing is rated, a user is the average user, apart from what E tells
        unknown = x + self.average_row(x, R) - x[users].mean(0)
        cases = (R, x), (part, x), (R.where([]), unknown)
        return self.fit_prior(cases, users, np.full(len(users), 1 / 3), E)

    def fit_prior(self, cases, users, weight, E):
        """W (columns, k), so that z W is the mean of rows x: one weighted ridge regression.

        cases: pairs of what is shown and x (all users, k); users and weight (n,): which of these
        count, and how much. The intercept is not penalised.
        """
        Z = np.array([self.prior_features(*shown.of(u), E[u])
                      for shown, _ in cases for u in users], np.float64)
        x = np.vstack([x[users] for _, x in cases])
        weighted = Z.T * np.tile(weight, len(cases))       # (columns, n)
        penalty = np.diag([0] + [self.strength] * (len(weighted) - 1))
        return np.linalg.solve(weighted @ Z + penalty, weighted @ x).astype(x.dtype)

    def prior_features(self, items, values, profile):
        """z: [1, profile, sum of q1 / (n + 5), the same of likes if `like` is set, log(1 + n)]."""
        n = len(items)
        summed = [np.ones(n)] if self.like is None else [np.ones(n), values >= self.like]
        sums = np.array(summed, self.q1.dtype) @ self.q1[items] / (n + 5)          # (1 or 2, k)
        return np.concatenate([[1], profile, sums.ravel(), [np.log1p(n)]]).astype(sums.dtype)

    def average_row(self, x, R):
        """The row (k + 1,) of an average user: all ratings, as if by raters of average bias.

        People rate what suits them, so this row, and not the mean of the rows x, predicts how an
        unknown user rates what they choose to rate. The n ratings of a user weigh sqrt(n) in total.
        """
        raters = x[R.counts > 0]
        bu = x[:, -1] - raters[:, -1].mean()
        weight = R.counts[R.users] ** -0.5                 # (n,)
        total = np.bincount(R.items, weight * (R.values - bu[R.users]), R.shape[1])
        count = np.bincount(R.items, weight, R.shape[1])
        rated = np.flatnonzero(count)
        noise = 1 / np.maximum(count, 1e-9)                # of an item's mean
        mean = (total * noise)[rated]
        q1, centre = self.q1.astype(float), raters.mean(0)
        return fold_in(rated, mean, q1, self.base, self.ridge, centre, noise).astype(x.dtype)

    def fold_in_items(self, Rt, x, unit):
        """Solve [q_i, base_i] of each item from its ratings, shrunk towards what it was."""
        rows = with_ones(x[:, :-1])                        # ratings are bu + [p, 1] . [q, base]
        ridge = np.full(x.shape[1], self.l2_item * unit ** 2, x.dtype)
        ridge[-1] = 10                                     # flat: 3 to 30 do as well
        own = np.hstack([self.q1[:, :-1], self.base[:, None]])           # (items, k + 1)
        ones = np.ones(len(x), x.dtype)                    # users are equally noisy
        for i in np.flatnonzero(Rt.counts):
            own[i] = fold_in(*Rt.of(i), rows, x[:, -1], ridge, own[i], ones)
        self.q1 = with_ones(own[:, :-1])
        self.base = own[:, -1].copy()

    def prior(self, items, values, profile):
        """c (k + 1,) of one user; 0 as long as W is not known."""
        if self.centre:
            return self.centre(items)
        if self.W is None:
            return np.zeros(self.q1.shape[1], self.q1.dtype)
        return self.prior_features(items, values, profile) @ self.W

    def row(self, items, values, profile):
        """x (k + 1,) of one user: ratings values (n,) of items (n,), profile (columns,)."""
        c = self.prior(items, values, profile)
        return fold_in(items, values, self.q1, self.base, self.ridge, c, self.noise)

    def user_factors(self, users, shown, E=None):
        """x (len(users), k + 1), solved; a user without ratings gets c."""
        E = side_of(shown, E)
        x = np.empty((len(users), self.q1.shape[1]), self.q1.dtype)
        for n, u in enumerate(users):
            x[n] = self.row(*shown.of(u), E[u])
        return x

    @np.errstate(invalid="ignore")                         # as fold_in
    def shares(self, items, values, asked):
        """What each rating adds to the rating predicted for items asked, (m, n)."""
        A, weight, G, scaled = equations(items, self.q1, self.ridge, self.noise)
        # A G^-1 Qt, from the m items asked: they are fewer than the ratings or columns of A
        Qt = self.q1[asked].T                              # (k + 1, m)
        AGQ = A @ np.linalg.solve(G, Qt) if scaled is None else np.linalg.solve(G, scaled @ Qt)
        return AGQ.T * weight * (values - self.base[items])

    @np.errstate(invalid="ignore")                         # as fold_in
    def variance(self, items, values, x, asked):
        """a and b (m,): the ratings predicted for items asked have the variance a sigma^2 + b.

        It is s2_u (v + Q G^-1 Qt). s2_u is the mean of residual^2 / (1 - leverage) / v over the
        user's ratings, and over eight more of size sigma^2.
        x: the user's row, solved from values (n,) of items (n,). asked may be a slice.
        """
        A, _, G, scaled = equations(items, self.q1, self.ridge, self.noise)
        Q = self.q1[asked]                                 # (m, k + 1)
        root = np.linalg.inv(np.linalg.cholesky(G)).T      # G^-1 = root roott
        # leverage: diagonal of A G^-1 At, (n,); own: that of Q G^-1 Qt, (m,)
        if scaled is None:
            leverage, own = row_dot(A @ root), row_dot(Q @ root)
        else:
            # A G^-1 At = I - (A D^-1 At + I)^-1, G^-1 = D^-1 - D^-1 At (A D^-1 At + I)^-1 A D^-1
            leverage = 1 - row_dot(root)
            own = Q ** 2 @ (1 / self.ridge) - row_dot(Q @ (scaled.T @ root))
        residual = values - self.base[items] - self.q1[items] @ x
        squares = residual ** 2 / (1 - leverage) / self.noise[items]
        relative = (self.noise[asked] + own) / (8 + len(items))
        return 8 * relative, squares.sum() * relative

    saved = {"q": "q1", "q_base": "base", "prior": "W", "noise": "noise", "ridge": "ridge"}

    def serving_arrays(self):
        """The arrays that row and variance read, by their names in a file."""
        return {name: getattr(self, own) for name, own in self.saved.items()}

    @classmethod
    def from_arrays(cls, arrays):
        """The model whose serving_arrays are among some arrays; it cannot be fitted."""
        model = cls.__new__(cls)
        vars(model).update((own, arrays[name]) for name, own in cls.saved.items())
        return model


@np.errstate(invalid="ignore")                             # BLAS can raise it in lanes it discards
def fold_in(items, values, q1, base, ridge, centre, noise):
    """The row x (k + 1,) of one user, trained on or not, from ratings values (n,) of items (n,).

    Minimises sum_i (values_i - base_i - x . q1_i)^2 / noise_i + sum_j ridge_j (x_j - centre_j)^2.
    """
    A, weight, G, scaled = equations(items, q1, ridge, noise)
    residual = (values - base[items]) * weight - A @ centre              # (n,)
    if scaled is None:
        return centre + np.linalg.solve(G, A.T @ residual)
    return centre + np.linalg.solve(G, residual) @ scaled


def equations(items, q1, ridge, noise):
    """A (n, k + 1), weights, G and None; or, if n < k + 1, a smaller system that does as well.

    A: rows of q1 times their weight 1 / sqrt(noise); G = At A + D, D = diag(ridge). The smaller one
    has A D^-1 At + I (n, n) in place of G, and A D^-1 in place of None, because
    (A D^-1 At + I)^-1 A D^-1 = A G^-1. noise: of all items.
    """
    weight = 1 / np.sqrt(noise[items])                     # (n,)
    A = q1[items] * weight[:, None]
    if len(items) >= len(ridge):
        return A, weight, A.T @ A + np.diag(ridge), None
    scaled = A / ridge
    return A, weight, scaled @ A.T + np.eye(len(A), dtype=A.dtype), scaled


def random_part(R, rng):
    """R with a random part of each user's ratings; random_sizes says how many."""
    keep = random_sizes(R, rng)
    return R.where(R.ranks(rng) < keep[R.users])


def random_sizes(R, rng):
    """Numbers (users,) from 0 to the most ratings that any user has, drawn on a log scale."""
    most = np.log(R.counts.max() + 2)
    return np.exp(most * rng.random(R.shape[0])).astype(int) - 1


def like_threshold(values):
    """Where likes begin: at three quarters of the scale that values (n,) span, 4 of 1 to 5."""
    if len(values) == 0:
        raise ValueError("no ratings")
    low, high = float(values.min()), float(values.max())
    return low + 0.75 * (high - low) - 1e-6 * (high - low)            # ratings are float32


class Popularity:
    """The same score of an item for everyone: its number of likes."""

    def fit(self, R, E=None, F=None, progress=None):
        """Count the likes in R."""
        likes = likes_of(R, like_threshold(R.values))
        self.base = np.bincount(likes.items, minlength=R.shape[1]).astype(np.float32)
        return self

    def scores(self, users, shown=None, E=None):
        """(len(users), items)."""
        return np.tile(self.base, (len(users), 1))


@dataclass(eq=False)
class EASE:
    """Scores s_u = X_u B of items, X_u: 1 for a like, `rated` for other ratings, 0 elsewhere.

    B minimises |X - X B|^2 + l2 |B|^2 with a diagonal of 0: B_ij = -P_ij / P_jj with
    P = (Xt X + l2 I)^-1 (items, items) (Steck, 2019, who reads likes alone: rated = 0).
    """

    l2: float = 200.0
    rated: float = 0.0

    def fit(self, R, E=None, F=None, progress=None):
        """Learn from R; E and F are not used."""
        self.like = like_threshold(R.values)
        X = R.with_values(self.inputs(R.values))
        G = sum(block.T @ block for block, _ in X.blocks()).astype(np.float64)
        P = np.linalg.inv(G + self.l2 * np.eye(len(G)))
        self.B = (-P / np.diag(P)).astype(np.float32)
        np.fill_diagonal(self.B, 0)
        return self

    def scores(self, users, shown, E=None):
        """(len(users), items), to order items by."""
        row, item, values = shown.rows(users)
        X = np.zeros((len(users), len(self.B)), np.float32)
        X[row, item] = self.inputs(values)
        return X @ self.B

    def inputs(self, values):
        """X of ratings (n,)."""
        return np.where(values >= self.like, 1, self.rated)


@dataclass(eq=False)
class MultVAE:
    """Mult-VAE (Liang et al., 2018): an encoder and a decoder of likes, with one hidden layer each.

        [m, log v] = encoder(x), z = m + sqrt(v) eps, logits = decoder(z)       eps ~ N(0, I)

    x (items,): 1 for each like, divided by the norm, with dropout in training. Loss of a batch:
    (negative log likelihood of the likes under softmax(logits) + beta * divergence of N(m, v) from
    N(0, I)) / B + l2 |W|^2, where beta grows linearly from 0.
    """

    n_factors: int = 200
    hidden: int = 600
    l2: float = 0.01
    beta: float = 0.2                                      # at the end of training
    dropout: float = 0.5                                   # of the input
    epochs: int = 100
    rate: float = 1e-3
    batch: int = 128
    seed: int = 0
    dtype: type = np.float32

    @np.errstate(over="ignore", invalid="ignore")          # batches reports divergence
    def fit(self, R, E=None, F=None, progress=None):
        """Learn from the likes in R; E and F are not used."""
        self.like = like_threshold(R.values)
        L = likes_of(R, self.like)
        rng = np.random.default_rng(self.seed)
        self.encoder = Sequential(Linear(R.shape[1], self.hidden, rng, self.dtype), Tanh(),
                                  Linear(self.hidden, 2 * self.n_factors, rng, self.dtype))
        self.decoder = Sequential(Linear(self.n_factors, self.hidden, rng, self.dtype), Tanh(),
                                  Linear(self.hidden, R.shape[1], rng, self.dtype))
        params = self.encoder.params + self.decoder.params
        adam = Adam(params, l2=[self.l2 * (p.ndim == 2) for p in params])
        drop = Dropout(self.dropout, rng)
        users = np.flatnonzero(L.counts)
        for batch, done, errors in batches(self, users, self.batch, rng, L, params, progress):
            x, row, item = self.encode(L, batch)
            x = drop.forward(x, training=True)[0]
            eps = rng.standard_normal((len(x), self.n_factors), self.dtype)
            loss, grads = self.gradients(x, row, item, eps, self.beta * done)
            adam.step(grads, self.rate * cosine(done))
            errors.append(loss * len(x) / np.log(R.shape[1] + 1))        # 1: guessing blindly
        return self

    def encode(self, likes, users):
        """x (len(users), items) of some users, and the rows and items (n,) of their likes."""
        row, item, _ = likes.rows(users)
        x = np.zeros((len(users), likes.shape[1]), self.dtype)
        x[row, item] = 1 / np.sqrt(np.bincount(row)[row])
        return x, row, item

    def gradients(self, x, row, item, eps, beta):
        """Loss without the penalty, and its gradients: encoder, then decoder."""
        h, encoder_caches = self.encoder.forward(x)
        m, log_v = np.split(h, 2, axis=1)                  # (B, k) each
        v = np.exp(log_v)
        noise = np.sqrt(v) * eps
        logits, decoder_caches = self.decoder.forward(m + noise)
        loss, d = multinomial(logits, row, item)
        divergence = (m * m + v - log_v - 1).sum() / 2
        dz, decoder_grads = self.decoder.backward(d, decoder_caches, input_grad=True)
        scale = self.dtype(beta / len(x))
        dm = dz + scale * m
        dlog_v = dz * noise / 2 + scale * (v - 1) / 2
        _, encoder_grads = self.encoder.backward(np.hstack([dm, dlog_v]), encoder_caches)
        return loss + beta * divergence / len(x), encoder_grads + decoder_grads

    def scores(self, users, shown, E=None):
        """Logits (len(users), items) at z = m, to order items by."""
        x, *_ = self.encode(likes_of(shown, self.like), users)
        m = self.encoder.forward(x)[0][:, :self.n_factors]
        return self.decoder.forward(m)[0]


def likes_of(R, like):
    """Only the ratings of at least `like`, all with the value 1."""
    return R.with_values(np.ones(len(R))).where(R.values >= like)


def ensure_fitted(model, R, E, F, progress=None):
    """Fit a part of a model unless it is already fitted: models of a table share fitted parts."""
    if not hasattr(model, "base"):
        model.fit(R, E, F, progress)


def side_of(R, E):
    """E (users, columns) of the users of R; None means no columns. Raises ValueError."""
    E = np.zeros((R.shape[0], 0), np.float32) if E is None else E
    if len(E) != R.shape[0]:
        raise ValueError(f"E has {len(E)} rows for {R.shape[0]} users")
    return E


def unit_of(R):
    """The unit in which ratings span 4, as settings and Tanh suit them; 1 if all are equal."""
    if len(R) == 0:
        raise ValueError("no ratings")
    return np.ptp(R.values) / 4 or 1


def with_ones(a):
    """(n, k) -> (n, k + 1): a column of ones on the right, which a bias multiplies."""
    return np.hstack([a, np.ones((len(a), 1), a.dtype)])


def paired_dot(p, q, users, items):
    """p[users[i]] . q[items[i]] for each i: (users, k), (items, k), (n,), (n,) -> (n,)."""
    result = np.empty(len(users), p.dtype)
    for s in even_slices(len(users), 1 << 14):             # all pairs at once need n x k memory
        result[s] = row_dot(p[users[s]], q[items[s]])
    return result


def row_dot(a, b=None):
    """The products a[i] . b[i] of rows, or a[i] . a[i]: (n, k), (n, k) -> (n,)."""
    return np.einsum("nk,nk->n", a, a if b is None else b)
