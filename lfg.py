"""LFG, latent factor generator (Liu and Mi, arXiv 2310.20189): recommend to new users at once.

A network turns what a user has rated, and their profile, into latent factors in one forward pass:

    U_G, bu_G = network([E, mask(H)])        E: profile of the user, H: ratings of the user
    H_pred    = U_G M + bu_G + bi_T + mu     M: item factors, bi_T: item biases, mu: mean rating

The mask hides some ratings, only while training. `LFG` is that model with inputs and penalties of
our own, `PaperLFG` the model as published. `LFGItem` turns it around: the network generates items,
and each user is found by ridge regression. `LFGDual` is a weighted mean of both. `RankLFG`,
`LFGRankItem` and `LFGRank` are the same three, trained to order lists instead of predicting
ratings. svd.py defines the methods of all. `python lfg.py --help` lists the commands.
"""

import os
import sys
from importlib.util import find_spec

if __name__ == "__main__":                                 # BLAS reads these when NumPy is loaded
    for library in ("OPENBLAS_NUM", "OMP_NUM", "MKL_NUM", "VECLIB_MAXIMUM"):
        os.environ.setdefault(f"{library}_THREADS", "1")
    if find_spec("numpy") is None:
        print("lfg.py: numpy is missing; pip install -r requirements.txt", file=sys.stderr)
        sys.exit(2)

from copy import copy
from dataclasses import dataclass

import numpy as np

from nn import Adam, BatchNorm, Dropout, LeakyReLU, Linear, Rows, Sequential, Tanh
from nn import batches, cosine, even_slices, masked_mse, multinomial
from svd import FactorModel, FoldIn, ensure_fitted, few_columns, fold_in, like_threshold, likes_of
from svd import random_part, side_of, truncated_svd, unit_of, with_ones


@dataclass(eq=False)
class LFG(FactorModel):
    """H_pred = U_G M + bu_G + bi_T + mu, where (U_G, bu_G) = network(I) and I = [E, mask(H)].

    The network, M (factors x items) and bi are trained together; no user is stored. Loss of a batch
    of B users: (sum over observed entries of weight * error^2) / B + l2 |W|^2 + l2_M |M|^2, where W
    stands for the weight matrices of the network. encode says what I holds besides E and H.
    """

    n_factors: int = 50
    hidden: tuple = (256,)                                 # widths of the hidden layers
    l2: float = 0.005
    l2_M: float = 0.2
    # probability that the input lacks a rating, or a range: one is drawn per user and batch
    mask: object = 0.1
    dropout: float = 0.5                                   # after each hidden layer; 0 in the paper
    svd_rows: int = 50                                     # rows of M that start at the SVD
    start: float = 0.3                                     # times this
    shown_weight: float = 1.0                              # in the loss, not of lists; masked: 1
    epochs: int = 40
    rate: float = 3e-3                                     # learning rate
    batch: int = 128                                       # users per step
    seed: int = 0
    dtype: type = np.float32
    per_item = 2                                           # columns of I that each item has
    ends = (Tanh,)                                         # layers at the end of the network
    orders = False                                         # True: trained to order items by likes

    @np.errstate(over="ignore", invalid="ignore")          # batches reports divergence
    def fit(self, R, E=None, F=None, progress=None):
        """Learn from R (users, items) and E (users, columns); F is not used."""
        E = side_of(R, E)
        self.unit = 1 if self.orders else unit_of(R)       # of ratings inside the network
        self.like = like_threshold(R.values)               # read if it orders
        R = R.with_values(self.inside(R.values))
        rng = np.random.default_rng(self.seed)
        self.start_training(R, E.shape[1], rng)
        self.sparse = few_columns(R, self.batch * (1 - np.mean(self.mask)))      # unmasked ratings
        params = self.network.params + [self.M.T, self.bi]
        # L2 on weight matrices and M, none on biases
        adam = Adam(params, l2=[self.l2 * (p.ndim == 2) for p in params[:-2]] + [self.l2_M, 0])
        users = np.flatnonzero(R.counts)
        for batch, done, errors in batches(self, users, self.batch, rng, R, params, progress):
            row, item, value = R.rows(batch)
            # 1. mask some ratings and encode the rest: I = [E, mask(H)]
            mask = self.mask if np.isscalar(self.mask) else rng.uniform(*self.mask, len(batch))[row]
            kept = rng.random(len(row), np.float32) >= mask
            part, read, asked, rows = self.part(item[kept], item)
            x = part.encode(row[kept], read, value[kept], E[batch])
            # 2. predict all ratings, shown and masked, and take a step of gradient descent
            weight = np.where(kept, self.shown_weight, 1).astype(self.dtype)
            mse, grads = part.gradients(x, row, asked, value, weight)
            adam.step(grads, self.rate * cosine(done), rows)
            errors.append(mse * len(x))                    # back to a sum over ratings
        self.q1 = with_ones(self.M.T)                      # (items, k + 1)
        self.base = self.unit * (self.mu + self.bi)        # (items,)
        return self

    def inside(self, values):
        """Ratings (n,) as the network reads them; if it `orders`, 1 (a like) or 0."""
        return (values >= self.like).astype(self.dtype) if self.orders else values / self.unit

    def start_training(self, R, n_side, rng):
        """Set what training starts from: mu, items' deviations, the network, M from the SVD, bi."""
        self.mu, self.expected = 0, np.zeros(R.shape[1], self.dtype)     # likes are not centred
        if not self.orders:
            # the mean deviation of each item from mu, as if five more ratings were mu
            self.mu = R.values.mean()
            sums = np.bincount(R.items, R.values - self.mu, R.shape[1])
            counts = np.bincount(R.items, minlength=R.shape[1])
            self.expected = (sums / (counts + 5)).astype(self.dtype)
        self.network = self.build_network(n_side + self.per_item * R.shape[1], rng)
        self.M = self.start_M(R, rng).T.astype(self.dtype, "C").T        # its columns in one piece
        self.bi = np.zeros(R.shape[1], self.dtype)

    def build_network(self, n_in, rng):
        """Per hidden layer Linear, LeakyReLU, BatchNorm (only the first), Dropout; Linear; ends."""
        layers = []
        for n, n_out in enumerate(self.hidden):
            layers += [Linear(n_in, n_out, rng, self.dtype), LeakyReLU()]
            layers += [BatchNorm(n_out, dtype=self.dtype)] if n == 0 else []
            layers += [Dropout(self.dropout, rng)] if self.dropout else []
            n_in = n_out
        layers += [Linear(n_in, self.n_factors + 1, rng, self.dtype)]
        return Sequential(*layers, *(end() for end in self.ends))

    def part(self, read, asked):
        """A model of only the items read (n,) and asked (m,), these renumbered, and Adam's rows.

        A model that `orders` keeps all of M, because its loss covers all items.
        """
        if not self.sparse:
            return self, read, asked, None
        part = copy(self)
        columns, read = np.unique(read, return_inverse=True)
        part.expected = self.expected[columns]
        first = self.network.layers[0]
        starts = len(first.W) - len(self.expected) * np.arange(self.per_item, 0, -1)
        inputs = np.append(np.arange(starts[0]), np.add.outer(starts, columns))
        part.network = Sequential(Rows(first, inputs), *self.network.layers[1:])
        rows = [inputs, *[None] * (len(self.network.params) + 1)]
        if not self.orders:
            columns, asked = np.unique(asked, return_inverse=True)
            part.M = self.M.T.take(columns, 0).T
            part.bi = self.bi[columns]
            rows[-2:] = columns, columns
        return part, read, asked, rows

    def start_M(self, R, rng):
        """M (k, items): rows of start sqrt(S) Vt of ratings minus mu and `expected`, then noise."""
        M = 0.01 * rng.standard_normal((self.n_factors, R.shape[1]))
        rows = min(self.svd_rows, self.n_factors)
        residual = R.with_values(R.values - self.mu - self.expected[R.items])
        M[:rows] = self.start * truncated_svd(residual, rows, self.seed)[1]
        return M

    def encode(self, row, item, value, E):
        """I = [E, H, 1[H]] of a batch of B users: (B, columns + 2 items).

        H holds the ratings minus mu and the item's mean deviation, so a rating that was expected is
        0, and the indicator 1[H] tells it from a missing one. Both are divided by the square root
        of the user's number of ratings.
        """
        n_side, n_items = E.shape[1], len(self.expected)
        x = np.zeros((len(E), n_side + 2 * n_items), self.dtype)
        x[:, :n_side] = E
        scale = (1 / np.sqrt(np.bincount(row)[row])).astype(self.dtype)
        x[row, n_side + item] = (value - self.mu - self.expected[item]) * scale
        x[row, n_side + n_items + item] = scale
        return x

    def gradients(self, x, row, item, value, weight):
        """What `loss` gives for a batch; gradients without penalties: network, M.T and bi."""
        G, caches = self.network.forward(x, training=True)
        U_G, bu_G = G[:, :-1], G[:, -1]                    # (B, k), (B,)
        loss, d = self.loss(U_G, bu_G, row, item, value, weight)         # d: (B, items)
        dG = np.hstack([d @ self.M.T, d.sum(1, keepdims=True)])          # -> (B, k + 1)
        return loss, self.network.backward(dG, caches)[1] + [d.T @ U_G, d.sum(0)]

    def loss(self, U_G, bu_G, row, item, value, weight):
        """Weighted squared error / B, and its gradient with respect to predictions (B, items)."""
        target = value - self.mu - bu_G[row] - self.bi[item]
        return masked_mse(U_G @ self.M, row, item, target, weight)

    @np.errstate(invalid="ignore")                         # BLAS can raise it in lanes it discards
    def user_factors(self, users, shown, E=None):
        """[U_G, bu_G] (len(users), k + 1), times the unit: one forward pass from `shown` and E."""
        E = side_of(shown, E)
        G = np.empty((len(users), self.n_factors + 1), self.dtype)
        for b in even_slices(len(users), 512):
            row, item, value = shown.rows(users[b])
            part, read, *_ = self.part(item, item[:0])
            x = part.encode(row, read, self.inside(value), E[users[b]])
            G[b] = part.network.forward(x)[0]
        return self.unit * G

    def serving_arrays(self):
        """What a Generator reads, by name; BatchNorm is merged into W1 and b1.

        With s = 1 / sqrt(number of ratings), encode turns a rating h into two numbers,
        (h / unit - mu - expected) s and s, so the first Linear adds h s (W_H / unit) +
        s (W_seen - (mu + expected) W_H). W1 and b1 are those of the second Linear.
        """
        linears = [layer for layer in self.network.layers if isinstance(layer, Linear)]
        norm = next(layer for layer in self.network.layers if isinstance(layer, BatchNorm))
        W_E, W_H, W_seen = np.split(linears[0].W, len(self.expected) * np.array([-2, -1]))
        W_seen = W_seen - (self.mu + self.expected)[:, None] * W_H
        arrays = {"W_E": W_E, "W_H": W_H / self.unit, "W_seen": W_seen, "b0": linears[0].b}
        for n, layer in enumerate(linears[1:], 1):
            arrays.update({f"W{n}": layer.W, f"b{n}": layer.b})
        gain = norm.gain / np.sqrt(norm.var + norm.eps)
        arrays["b1"] = arrays["b1"] + (norm.shift - norm.mean * gain) @ arrays["W1"]
        arrays["W1"] = gain[:, None] * arrays["W1"]
        arrays.update(M1=self.unit * self.q1, base=self.base)
        return {**arrays, "like": self.like} if self.orders else arrays


class Generator(FactorModel):
    """An LFG or RankLFG, made from its serving_arrays, that serves one user at a time."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.q1 = arrays["M1"]
        self.base = arrays["base"]

    def row(self, items, values, profile):
        """[U_G, bu_G] (k + 1,) of one user, by LFG or RankLFG; arguments as in FoldIn.row."""
        a = self.arrays
        ranks = "like" in a
        values = (values >= a["like"]).astype(np.float32) if ranks else values
        ones = np.ones(len(items), np.float32)
        # reads only the rows of rated items
        rated = values @ a["W_H"].take(items, 0) + ones @ a["W_seen"].take(items, 0)
        h = a["b0"] + profile @ a["W_E"] + rated * max(1, len(items)) ** -0.5
        layer = 1
        while f"W{layer}" in a:
            h = np.maximum(h, LeakyReLU.slope * h) @ a[f"W{layer}"] + a[f"b{layer}"]
            layer += 1
        return h if ranks else np.tanh(h)


@dataclass(eq=False)
class PaperLFG(LFG):
    """LFG as published: ratings as they are, M from their SVD, no penalties and no dropout.

    The mu of a prediction is the mean of the user's own ratings or, if there are fewer than 10, of
    all ratings, as in github.com/Coder-II/LFG, which calls itself the paper's updated source code.
    """

    l2: float = 0.0
    l2_M: float = 0.0
    dropout: float = 0.0
    fill_mu: bool = False                                  # the SVD is of R - mu, not of R
    own_mean: bool = True                                  # False: mu is the mean of all ratings
    per_item = 1

    def start_M(self, R, rng):
        """M (k, items): sqrt(S) Vt of the SVD of R filled with 0, or with mu, minus mu."""
        R = R.with_values(R.values - self.mu) if self.fill_mu else R
        return truncated_svd(R, self.n_factors, self.seed)[1]

    def encode(self, row, item, value, E):
        """I = [E, H] of a batch of B users: (B, columns + items)."""
        x = np.zeros((len(E), E.shape[1] + len(self.expected)), self.dtype)
        x[:, :E.shape[1]] = E
        x[row, E.shape[1] + item] = value
        return x

    def gradients(self, x, row, item, value, weight):
        """As LFG's, with the user's own mean in place of mu."""
        return super().gradients(x, row, item, value - self.above(row, value, len(x))[row], weight)

    def user_factors(self, users, shown, E=None):
        """As LFG's; the bias holds the user's own mean minus mu as well."""
        x = super().user_factors(users, shown, E)
        row, _, value = shown.rows(users)
        x[:, -1] += self.unit * self.above(row, self.inside(value), len(users))
        return x

    def above(self, row, value, n_users):
        """How far above mu the mean of each user's ratings is (n_users,): 0 below 10 ratings."""
        n = np.bincount(row, minlength=n_users)
        mean = np.bincount(row, value, n_users) / np.maximum(1, n)
        return np.where(self.own_mean & (n >= 10), mean - self.mu, 0).astype(self.dtype)


@dataclass(eq=False)
class RankLFG(LFG):
    """LFG trained to order: U_G M + bu_G + bi_T are logits of which items a user rates and likes.

    Input: [E, likes, rated], scaled as LFG's. Loss of a batch: the negative log likelihood of the
    rated items under a softmax over all items, / B, where a like counts 1 and any other rating
    `rated`, from 0 to 1, plus the penalties of LFG.
    """

    n_factors: int = 200
    l2: float = 0.5
    l2_M: float = 0.05
    mask: object = 0.5
    epochs: int = 30
    rated: float = 0.3
    ends = ()                                              # logits need a wider range than Tanh's
    orders = True

    def start_training(self, R, n_side, rng):
        """As LFG's; bi starts at the logarithm of the number of likes."""
        super().start_training(R, n_side, rng)
        likes = np.bincount(R.items, R.values, R.shape[1])
        self.bi = np.log(likes + 1).astype(self.dtype)

    def loss(self, U_G, bu_G, row, item, value, weight):
        """The loss divided by log(items + 1), the cost of a blind guess; the loss's gradient."""
        logits = U_G @ self.M + bu_G[:, None] + self.bi    # (B, items)
        loss, d = multinomial(logits, row, item, np.maximum(value, self.rated))
        return loss / np.log(self.M.shape[1] + 1), d


@dataclass(eq=False)
class CellsLFG(LFG):
    """What LFGRankItem trains: scores s = U_G M of all cells, 1 for likes, 0 for what is not rated.

    Loss of a batch: (sum over ratings of [(t - s)^2 - a0 s^2] + a0 * sum over all cells of s^2) / B
    plus LFG's penalties: a rating weighs 1, any other cell a0. t is 1 for a like, and `rated` (0 to
    1) for other ratings, because people choose what they rate. Input: as RankLFG's. No biases.
    """

    n_factors: int = 200
    l2: float = 0.003
    l2_M: float = 0.01
    mask: object = 0.3
    epochs: int = 30
    a0: float = 0.3
    rated: float = 0.5
    orders = True

    def gradients(self, x, row, item, value, weight):
        """Loss without penalties; its gradients: network parameters, M.T, and bi (0)."""
        G, caches = self.network.forward(x, training=True)
        Q = G[:, :-1]                                      # (B, k)
        S = Q @ self.M                                     # read at ratings only
        s = S[row, item]
        target = np.maximum(value, self.rated)             # 1 for a like
        d = np.zeros_like(S)
        d[row, item] = ((1 - self.a0) * s - target) * self.dtype(2 / len(x))
        # the sum of s^2 over all cells is trace((Qt Q)(M Mt)): two small products, no dense matrix
        QQ, MM = Q.T @ Q, self.M @ self.M.T                # (k, k)
        cells = self.dtype(2 * self.a0 / len(x))
        dQ = d @ self.M.T + cells * (Q @ MM)
        dM = d.T @ Q + cells * (self.M.T @ QQ)
        loss = ((target - s) ** 2 - self.a0 * s ** 2).sum() + self.a0 * (QQ * MM).sum()
        dG = np.hstack([dQ, np.zeros((len(x), 1), self.dtype)])          # no bias
        return loss / len(x), self.network.backward(dG, caches)[1] + [dM, np.zeros_like(self.bi)]


class LFGItem(FoldIn):
    """LFG turned around: the network generates items, and users are found by ridge regression.

        q_i, bi_i = network([F_i, ratings of item i])             for all items, once, unmasked
        p_u, bu_u = argmin sum_i (h_ui - mu - bu - bi_i - p . q_i)^2 + l2 |p|^2 + l2_bias bu^2

    F_i: what is known of item i, such as genres. M, whose columns are the training users, is not
    used: the regression predicts better even for them. As in FoldIn, p is shrunk towards a prior
    instead of 0, ratings of noisy items weigh less, and items are folded in. models: LFGs that
    differ in their seed, fitted on (R.T, F) or not; kept: how many joined factors to keep, or all.
    """

    def __init__(self, models, *ridge, kept=None, **more):
        super().__init__(None, *ridge, **more)
        self.models = models
        self.kept = kept

    def fit(self, R, E=None, F=None, progress=None):
        """Fit the generators on the transpose, unless they are fitted, and generate all items."""
        q, bias = self.generate(R.T, F, progress)
        unit, mu = self.models[0].unit, self.models[0].mu
        return self.solve_into(with_ones(q / unit), unit * mu + bias, unit, R, E)

    def generate(self, Rt, F, progress):
        """Factors (items, k) and biases (items,) of all items, times the unit.

        Factors of several networks stand side by side, divided by the root of their number: q_i q_j
        is then the mean over the networks. With `kept`, only that many leading directions remain.
        """
        for model in self.models:
            ensure_fitted(model, Rt, F, None, progress)
        G = [model.user_factors(np.arange(Rt.shape[0]), Rt, F) for model in self.models]
        q = np.hstack([g[:, :-1] for g in G]) / np.sqrt(len(G), dtype=G[0].dtype)
        if self.kept and len(G) > 1:
            V = np.linalg.eigh(q.T.astype(np.float64) @ q)[1]            # the leading ones last
            q = (q @ V[:, :-1 - self.kept:-1]).astype(q.dtype)
        return q, np.mean([g[:, -1] for g in G], axis=0)


class LFGRankItem(LFGItem):
    """LFGItem trained to order: CellsLFG generates the items, a user is solved from their likes.

    Items that the user rated below a like count here as not rated; they act through n and c.
    With s = q . p the score of an item and c the prior mean of p, p minimises

        sum over likes of [(1 - s)^2 - a0 s^2] + a0 sum over all items of (s - t q . c)^2
            + l2 |p - c|^2,        t = few / (few + n)

    so the scores of items not liked are pulled towards the prior's if a user has few ratings n, and
    towards 0 if they have many; without ratings p = c. The minimum solves

        (A + (1 - a0) sum of q qt) p = sum of q + (t A + (1 - t) l2) c,     A = a0 Qt Q + l2 I

    (sums over the likes; Q (items, k): all items). With A = V diag(d) Vt, x = Vt p and q1 = Vt q it
    is fold_in of values 1 / (1 - a0) with the ridge d / (1 - a0), and x . q1 = s. c = z W as in
    FoldIn. q is what the network generates for an item, followed by what is known of it, F, times
    `known`. A rare genre weighs more than a frequent one: fans of a genre get that genre.

    models: CellsLFGs, fitted on (R.T, F) or not; strength: of W's ridge, in which a user with m
    likes weighs the root of m; known: a weight for each column of F (columns,), or one for all.
    """

    saved = {**FoldIn.saved, **{name: name for name in (
        "shrink", "generated", "few", "like", "value")}}

    def __init__(self, models, l2, few, strength, known, kept=None):
        super().__init__(models, l2, 1.0, strength=strength, kept=kept)
        self.few, self.known = few, known

    def fit(self, R, E=None, F=None, progress=None):
        """Fit the generators unless they are fitted, generate all items, and find the prior."""
        E = side_of(R, E)
        Rt = R.T
        q, _ = self.generate(Rt, F, progress)
        F = side_of(Rt, F)
        rarity = np.sqrt(np.log(len(F) / np.maximum(1, F.sum(0))))       # (columns,)
        Q = np.hstack([q, (np.multiply(self.known, rarity) * F).astype(q.dtype)])
        generator = self.models[0]
        self.like = generator.like
        # 1. turn the factors so that A is diagonal: the ridge of fold_in
        A = generator.a0 * (Q.T @ Q).astype(np.float64) + self.l2 * np.eye(Q.shape[1])
        d, V = np.linalg.eigh(A)
        self.q1 = (Q @ V).astype(Q.dtype)
        self.generated = V[:q.shape[1]].astype(Q.dtype)    # of what the networks generated
        self.ridge = (d / (1 - generator.a0)).astype(Q.dtype)
        self.value = Q.dtype.type(1 / (1 - generator.a0))  # what each like is solved towards
        self.shrink = (self.l2 / d).astype(Q.dtype)        # l2 A^-1, diagonal as well: (k,)
        self.base = np.zeros(len(Q), Q.dtype)
        self.noise = np.ones(len(Q), Q.dtype)              # the same for all items
        # 2. solve each user without a prior; c is the mean of such rows given z
        self.W = None
        x = self.user_factors(np.arange(len(E)), R, E)     # (users, k)
        users = np.flatnonzero(R.counts)
        part = random_part(R, np.random.default_rng(generator.seed))
        weight = np.sqrt(likes_of(R, self.like).counts[users])
        self.W = self.fit_prior(((R, x), (part, x)), users, weight / weight.mean() / 2, E)
        return self

    def row(self, items, values, profile):
        """x (k,) of one user, as FoldIn.row, but from their likes alone, all of one value."""
        c = self.prior(items, values, profile)
        t = np.asarray(self.few / (self.few + len(items)), c.dtype)
        c = (t + (1 - t) * self.shrink) * c                # t c + (1 - t) l2 A^-1 c
        likes = items[values >= self.like]
        return fold_in(likes, self.value, self.q1, self.base, self.ridge, c, self.noise)

    def shares(self, items, values, asked):
        """What each rating adds to the scores of items asked, (m, n): 0 unless it is a like."""
        liked = values >= self.like
        found = np.zeros((len(asked), len(items)), self.q1.dtype)
        found[:, liked] = super().shares(items[liked], self.value, asked)
        return found


class LFGDual:
    """The weighted mean of the ratings that several models predict, each fitted on its own.

    forward: LFGs, which generate the user's factors; solved: LFGItems (or other FoldIns), which
    solve for them. Either list may be empty. weights: the share of `forward` for users with many
    ratings and for users with none; for users with 5 it is halfway between.
    """

    Solved = FoldIn                                        # what from_arrays makes

    def __init__(self, forward, solved, weights):
        self.forward = forward
        self.solved = solved
        self.parts = forward + solved
        self.weights = weights if forward and solved else [float(bool(forward))] * 2

    def fit(self, R, E=None, F=None, progress=None):
        """Fit the parts that are not fitted yet, each on its own."""
        for model in self.parts:
            ensure_fitted(model, R, E, F, progress)
        return self

    def predict(self, users, items, shown, E=None):
        """Ratings (n,) of the pairs users[i], items[i], not clipped."""
        return self.join(shown.counts[users], [part.predict(users, items, shown, E)
                                               for part in self.parts])

    def scores(self, users, shown, E=None):
        """Ratings (len(users), items) of all items, not clipped."""
        return self.join(shown.counts[users, None], [part.scores(users, shown, E)
                                                     for part in self.parts])

    def join(self, n, scores):
        """The weighted mean of the scores of each part; n: ratings shown, a number or an array."""
        scores, _ = self.scaled(scores)
        return sum(weight * part for weight, part in zip(self.part_weights(n), scores))

    def scaled(self, scores):
        """Scores of the parts, or of one, ready to be averaged, and what divided them."""
        return scores, 1

    def part_weights(self, n):
        """The weight of each part: all of `forward` weigh alike, and all of `solved`."""
        many, none = self.weights
        weight = many + (none - many) * 5 / (5 + n)
        shares = (weight, self.forward), (1 - weight, self.solved)
        return [share / len(alike) for share, alike in shares for _ in alike]

    def variance_terms(self, users, items, shown, E=None):
        """a and b (n,) as those of the solved model, if there is one."""
        return self.parts[-1].variance_terms(users, items, shown, E)

    # Serving: one user, given as in FoldIn.row, by at most one part of each kind

    def serving_arrays(self):
        """The arrays of all parts, by name."""
        arrays = {"weights": np.array(self.weights)}
        for model in self.parts:
            arrays.update(model.serving_arrays())
        return arrays

    @classmethod
    def from_arrays(cls, arrays):
        """The model whose serving_arrays are among some arrays, to serve one user at a time."""
        weights = arrays["weights"]
        return cls([Generator(arrays)] if weights.max() > 0 else [],
                   [cls.Solved.from_arrays(arrays)] if weights.min() < 1 else [], weights)

    def serve(self, items, values, profile, asked=slice(None)):
        """Each part's row of a user, its scores of items asked (default: all), and these joined."""
        rows = [part.row(items, values, profile) for part in self.parts]
        parts = [part.base[asked] + part.q1[asked] @ x for part, x in zip(self.parts, rows)]
        return rows, parts, self.join(len(items), parts)

    def shares(self, items, values, asked, scores):
        """What each rating adds to the joined scores of items asked, (m, n); scores: by part."""
        if not self.solved:                                # what a Generator gives has no shares
            return np.zeros((len(asked), len(items)), self.parts[0].q1.dtype)
        weight = self.part_weights(len(items))[-1] / self.scaled(scores[-1])[1]
        return weight * self.solved[-1].shares(items, values, asked)


class LFGRank(LFGDual):
    """LFGDual of models trained to order: a weighted mean of scores, standardised per user."""

    Solved = LFGRankItem

    def scaled(self, scores):
        """Standardised scores (..., items); deviations (..., 1), infinite where all are alike."""
        scores = np.asarray(scores)
        n = scores.dtype.type(scores.shape[-1])            # sums: faster than mean and std
        mean = scores.sum(-1, keepdims=True) / n
        off = scores - mean
        spread = np.sqrt(np.square(off).sum(-1, keepdims=True) / n)
        spread = np.where(spread <= 1e-6 * np.abs(mean), np.inf, spread)  # equal up to rounding
        return off / spread, spread


if __name__ == "__main__":
    import serve
    serve.main()
