"""LFG (Liu and Mi): a network that generates a user's latent factors from ratings and profile in one forward pass.

  python lfg.py train --dataset ml-1m --out ml-1m.npz
  python lfg.py recommend --model ml-1m.npz --rate "Toy Story (1995)=5" --rate "Heat=2" --age 25 --gender F
  python lfg.py score --model ml-1m.npz --ratings new-users.csv --out top.csv
  python lfg.py export --model ml-1m.npz --out ported
"""

import os
import signal

if __name__ == "__main__":                                    # until data.command: the imports take their time
    for number in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda n, _: os._exit(os.write(2, b"lfg.py: interrupted\n") and 128 + n))

import argparse
import io
import warnings
import zipfile

import numpy as np

from nn import Adam, BatchNorm, Dropout, LeakyReLU, Linear, Sequential, Tanh, cosine, masked_mse
from svd import DataError, even_slices, paired_dot, report, ridge_solve, truncated_svd


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

    @np.errstate(over="ignore", invalid="ignore")             # report tells of a training that diverges
    def fit(self, R, E, progress=None):
        """Learns from R, a Ratings, and E (users, columns); progress(epoch, mean squared error) is called each epoch.

        Input and target of a user are the same training ratings, each zeroed in the input with probability `mask`.
        """
        if len(E) != R.shape[0]:
            raise DataError(f"E has {len(E)} rows for {R.shape[0]} users; give each user one")
        rng = np.random.default_rng(self.seed)
        self.start(R, E.shape[1], rng)
        self.facts = facts(R, E)
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
            report(progress, epoch, loss / len(R), R.values, params)
        return self

    def start(self, R, n_side, rng):
        """Everything before the first step: mu, item means, the network, M from the SVD, bi from 0."""
        self.mu = R.mean()
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

    @np.errstate(invalid="ignore")                            # as at svd.fold_in
    def generate(self, R, E):
        """User factors U_G (users, k) and biases bu_G (users,) from the ratings R and E (users, columns): one pass."""
        parts = [np.zeros((0, self.n_factors + 1), self.dtype)]
        for b in even_slices(len(E), 512):
            users = np.arange(b.start, b.stop)
            parts.append(self.network.forward(self.encode(*R.rows(users), E[users]))[0])
        G = np.vstack(parts)
        return G[:, :-1], G[:, -1]

    def predict(self, users, items, R, E):
        """Ratings (n,) of the pairs users[i], items[i], not clipped; R holds what the users have rated."""
        user_factors, user_bias = self.generate(R, E)
        return self.mu + user_bias[users] + self.bi[items] + paired_dot(user_factors, self.M.T, users, items)

    def arrays(self):
        """What generate and predict need, by the names that a Recommender knows. Raises DataError where it has none."""
        if self.raw or not self.hidden:
            raise DataError("an LFG with raw=True or no hidden layer is for experiments; train one without to keep it")
        linears = [layer for layer in self.network.layers if isinstance(layer, Linear)]
        norm = next(layer for layer in self.network.layers if isinstance(layer, BatchNorm))
        named = {f"{name}{n}": getattr(layer, name) for n, layer in enumerate(linears) for name in ("W", "b")}
        return {**named, "gain": norm.gain, "shift": norm.shift, "mean": norm.mean, "var": norm.var,
                "expected": self.expected, "M": self.M, "bi": self.bi}

    def save(self, path, half=False):
        """Keeps the user side alone, as Recommender.save does; item ids and titles are then numbers."""
        Recommender(assemble(self.facts, self)).save(path, half)

    @staticmethod
    def load(path):
        """The Recommender in a file, whatever generators it holds. Raises DataError."""
        return Recommender.load(path)


class Recommender:
    """Serves users whom no training has seen. Holds a trained model as named arrays, which is what a file keeps.

    No call changes it and nothing is kept by user: threads can share one, and one more rating is one more call.
    An item is its place, from 0, in item_ids; side is (columns of E,), or None: the training users' mean.
    """

    @np.errstate(over="ignore", invalid="ignore")             # as at svd.fold_in; predict tells of too large weights
    def __init__(self, arrays):
        """arrays: what `assemble` makes and `load` reads."""
        self.arrays, self.ridge = arrays, tuple(arrays["ridge"])
        self.item_ids, self.titles, self.rated = arrays["item_ids"], arrays["titles"], arrays["rated"]
        self.E_names, self.E_mean = [str(name) for name in arrays["E_names"]], arrays["E_mean"]
        self.low, self.high, self.unit = arrays["scale"].tolist()             # unit: what ratings are divided by inside
        self.layers = []                                      # of the user side: none without a network
        if "W0" in arrays:
            self._fold_network()
        self.sides = []                                       # of the item side: factors and what the mean user rates
        for n in range(count(arrays, "q")):
            q1 = with_ones(arrays[f"q{n}"])                   # the bias is the factor of a 1
            self.sides.append((q1, arrays["mu"] + arrays[f"q_bias{n}"] + q1 @ arrays[f"centre{n}"]))
        # of the user side, as joining_weight takes them: all or nothing where there is no other
        self.weights = arrays["weights"].tolist() if self.layers and self.sides else [float(bool(self.layers))] * 2

    def _fold_network(self):
        """The network as h = b0 + input, then LeakyReLU(h) W + b for each layer: BatchNorm goes into the first W, b.

        LFG.encode gives a rated item two numbers, (h_i - mu - expected_i) s and s: that is h_i s W_H[i] + s W_1[i].
        """
        a, n_items = self.arrays, len(self.item_ids)
        self.b0, self.slope = a["b0"], LeakyReLU().slope
        self.W_E, self.W_H, W_1 = np.split(a["W0"], [len(self.E_names), len(self.E_names) + n_items])
        self.W_1 = W_1 - (a["mu"] + a["expected"])[:, None] * self.W_H
        gain = a["gain"] / np.sqrt(a["var"] + np.float32(BatchNorm.eps))
        shift = a["shift"] - a["mean"] * gain
        (W, b), *others = ((a[f"W{n}"], a[f"b{n}"]) for n in range(1, count(a, "W")))
        self.layers = [(gain[:, None] * W, b + shift @ W), *others]
        self.M1 = with_ones(a["M"].T)                         # (items, k + 1): bu_G is the factor of a 1
        self.base = a["mu"] + a["bi"]

    def predict(self, items, ratings, side=None):
        """Ratings (n_items,) that a user who gave `ratings` (n,) to `items` (n,) would give to each item; not clipped.

        For a batch of B users: lists of B such arrays, side being None or (B, columns); returns (B, n_items).
        Raises DataError when the arguments do not fit the model. H_pred of the paper, from the sides the file holds.
        """
        if is_batch(items):
            return np.stack([self.predict(*user) for user in one_by_one(items, ratings, side)])
        try:                                                  # weights that no training made are told below
            with np.errstate(over="ignore", invalid="ignore"):
                predicted = self._joined(*self._checked(items, ratings, side))
        except np.linalg.LinAlgError:
            predicted = np.nan
        if not np.isfinite(predicted).all():
            raise DataError("the model's weights are out of all measure; make one with lfg.py train")
        return predicted

    def _joined(self, items, values, side):
        """What predict answers: of the user side, the item side, or both; values are in the unit of training."""
        predicted = 0
        if self.layers:
            predicted = self.M1 @ self.generate(items, values, side) + self.base
        if self.sides:
            solved = [mean_user + q1 @ self.solve(items, values, q1, mean_user) for q1, mean_user in self.sides]
            weight = joining_weight(len(items), *self.weights)
            predicted = weight * predicted + (1 - weight) / len(solved) * sum(solved)
        return predicted if self.unit == 1 else predicted * np.float32(self.unit)

    def generate(self, items, values, side):
        """U_G and bu_G (k + 1,) of a user in one forward pass that reads only the rated rows of the first Linear."""
        h = self.b0 + side @ self.W_E
        if len(items):
            rated = values @ self.W_H.take(items, 0) + np.ones(len(items), np.float32) @ self.W_1.take(items, 0)
            h += rated * len(items) ** -0.5
        for W, b in self.layers:
            h = np.maximum(h, self.slope * h) @ W + b
        return np.tanh(h)

    def solve(self, items, values, q1, mean_user):
        """Factors and bias (k + 1,) of a user, less the mean user's: folded into an item side by one ridge."""
        l2, l2_bias = self.ridge
        ridge = np.full(q1.shape[1], l2, np.float32)
        ridge[-1] = l2_bias
        return ridge_solve(q1[items], values - mean_user[items], ridge)

    def recommend(self, items, ratings, side=None, n=10):
        """The n items that a user would rate best: places (n,) and predicted ratings (n,), within the scale.

        What the user has rated and what nobody rated in training stays out, so there may be fewer.
        For a batch, arguments as in predict: a list of such pairs.
        """
        if is_batch(items):
            return [self.recommend(*user, n) for user in one_by_one(items, ratings, side)]
        predicted = self.predict(items, ratings, side)
        candidate = self.rated.copy()
        candidate[np.asarray(items, np.intp)] = False
        places = np.flatnonzero(candidate)
        if n < len(places):
            places = places[np.argpartition(-predicted[places], n)[:n]]
        places = places[np.argsort(-predicted[places], kind="stable")]
        return places, np.clip(predicted[places], self.low, self.high)

    def _checked(self, items, ratings, side):
        """The arguments of predict as arrays, ratings in the unit of training."""
        items, ratings = np.asarray(items), np.asarray(ratings, np.float32)
        if items.ndim != 1 or items.shape != ratings.shape:
            raise DataError(f"items of shape {items.shape}, ratings of shape {ratings.shape}; give a rating an item")
        places = items.astype(np.intp)
        if len(items) and not (places.min() >= 0 and places.max() < len(self.item_ids) and (places == items).all()):
            raise DataError(f"items are places from 0 to {len(self.item_ids) - 1}; give such")
        if len(set(places.tolist())) < len(places):
            raise DataError("an item is rated twice; give each once")
        if len(items) and not (ratings.min() >= self.low and ratings.max() <= self.high):      # nor NaN
            raise DataError(f"ratings are from {self.low:g} to {self.high:g}; give such")
        side = self.E_mean if side is None else np.asarray(side, np.float32)
        if side.shape != self.E_mean.shape:
            raise DataError(f"side of shape {side.shape}; the model was trained with {self.E_mean.shape}")
        return places, ratings / self.unit, side

    def save(self, path, half=False):
        """Writes the model to an .npz file, whole or not at all; half keeps matrices as float16. Raises DataError."""
        problem = misfit(self.arrays)
        if problem:
            raise DataError(f"{path}: {problem} is not finite or beyond 1e10; lower the rate or the ratings")
        arrays = {name: np.clip(a, -65504, 65504).astype(np.float16) if half and a.ndim > 1 else a
                  for name, a in self.arrays.items()}
        write_whole(path, lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, path):
        """The model in a file that `save` wrote. Raises DataError when it is not one, or not whole."""
        try:
            if os.path.exists(path) and not os.path.isfile(path):
                raise ValueError
            with warnings.catch_warnings(), zipfile.ZipFile(path) as file:
                warnings.simplefilter("ignore")               # of headers as others write them
                sizes = {one.filename: one.file_size for one in file.infolist()}
                # save writes an array once and compresses nothing: what unpacks to more than the file is not its
                if len(sizes) < len(file.infolist()) or sum(sizes.values()) > os.path.getsize(path):
                    raise ValueError
                arrays = {name: np.lib.format.read_array(io.BytesIO(file.read(name))) for name in sizes}
                "".join(t for a in arrays.values() if a.dtype.kind == "U" for t in a.ravel().tolist()).encode()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or 'not a model file'}; make one with lfg.py train") from error
        except Exception as error:                            # zip, zlib and npy each complain in their own classes
            raise DataError(f"{path}: not a model file, or cut short; make one with lfg.py train") from error
        arrays = {name.removesuffix(".npy"): a.astype(np.float32) if a.dtype == np.float16 else a
                  for name, a in arrays.items()}
        if "version" not in arrays or arrays["version"].tolist() != FORMAT:
            raise DataError(f"{path}: not a model file of format {FORMAT}; make one with this lfg.py's train")
        problem = misfit(arrays)
        if problem:
            raise DataError(f"{path}: {problem} is missing, not finite or not as the rest; make one with lfg.py train")
        return cls(arrays)


def joining_weight(n, user_weight, empty_weight):
    """LFG-dual's weight of the user side for n ratings: empty_weight at none, halfway to user_weight at 5."""
    return user_weight + (empty_weight - user_weight) * 5 / (5 + n)


def is_batch(items):
    """Whether items are lists of several users rather than one user's."""
    return len(items) > 0 and np.ndim(items[0]) > 0


def one_by_one(items, ratings, side):
    """(items, ratings, side) of each user of a batch. Raises DataError when they are not of as many users."""
    sides = [None] * len(items) if side is None else side
    if not len(items) == len(ratings) == len(sides):
        raise DataError(f"items of {len(items)} users, ratings of {len(ratings)}, sides of {len(sides)}; give as many")
    return zip(items, ratings, sides)


# A model as named arrays.
FORMAT = 1


def facts(R, E, unit=1):
    """What serving has to know of the ratings R (users, items) and E (users, columns), by name.

    unit: what training divides R's ratings by.
    """
    return {"rated": np.bincount(R.items, minlength=R.shape[1]) > 0, "mu": (R.values / unit).mean(),
            "scale": (R.values.min(), R.values.max(), unit), "E_mean": E[R.counts > 0].mean(0)}


def assemble(facts, user=None, sides=(), ridge=(1, 1), weights=(1, 1), **catalogue):
    """The arrays of a Recommender: of an LFG (the user side), of results of item_side (the item side), or of both.

    ridge: l2 and l2_bias of the fold-in; weights: user_weight and empty_weight, as joining_weight takes them;
    catalogue: item_ids, titles and E_names, which otherwise are numbers.
    """
    items, columns = np.arange(len(facts["rated"])), np.arange(len(facts["E_mean"]))
    text = {"item_ids": items, "titles": items, "E_names": columns, **catalogue}
    numbers = {**facts, "ridge": ridge, "weights": weights, **(user.arrays() if user else {})}
    for n, side in enumerate(sides):
        numbers.update(zip((f"q{n}", f"q_bias{n}", f"centre{n}"), side))
    return {"version": np.array(FORMAT), **{name: np.array(a, str) for name, a in text.items()},
            **{name: np.array(a, bool if name == "rated" else np.float32) for name, a in numbers.items()}}


def with_ones(a):
    """(n, k) -> (n, k + 1): a column of ones at the right."""
    return np.hstack([a, np.ones((len(a), 1), a.dtype)])


def count(arrays, name):
    """How many of name0, name1... there are."""
    return next(n for n in range(len(arrays) + 1) if f"{name}{n}" not in arrays)


def misfit(arrays):
    """The first array of a file that is missing, beyond 1e10, or not of the shape or type that the others ask for."""
    try:
        shapes = shapes_of(**arrays)
    except (TypeError, KeyError, IndexError):                 # one that tells the sizes is missing
        return "item_ids, E_names, b0 or b1"
    if "W0" not in arrays and "q0" not in arrays:
        return "W0 or q0"
    for name, shape in shapes.items():
        a = arrays.get(name)
        kind = {"version": "i", "item_ids": "U", "titles": "U", "E_names": "U", "rated": "b"}.get(name, "f")
        if a is None or a.shape != shape or a.dtype.kind != kind or 0 in shape and name[:2] != "E_":
            return name
        if kind == "f" and not (a.dtype == np.float32 and np.abs(a).max(initial=0) < 1e10):       # nor NaN
            return name
    (low, high, unit), var = arrays["scale"], np.min(arrays.get("var", 0))
    wrong = {"scale": low > high or unit <= 0, "ridge": arrays["ridge"].min() <= 0, "var": var < 0}
    return next(iter([name for name in wrong if wrong[name]] + sorted(arrays.keys() - shapes.keys())), None)


def shapes_of(item_ids, E_names, **arrays):
    """{name: shape} of a whole model: i items, e columns of E, k factors."""
    i, e = len(item_ids), len(E_names)
    shapes = {"version": (), "item_ids": (i,), "titles": (i,), "rated": (i,), "E_names": (e,), "E_mean": (e,), "mu": (),
              "scale": (3,), "weights": (2,), "ridge": (2,)}
    for n in range(count(arrays, "q")):
        k = arrays[f"q{n}"].shape[-1]
        shapes.update({f"q{n}": (i, k), f"q_bias{n}": (i,), f"centre{n}": (k + 1,)})
    if "W0" in arrays:
        widths = [e + 2 * i] + [arrays[f"b{n}"].size for n in range(max(2, count(arrays, "W")))]
        for n, (n_in, n_out) in enumerate(zip(widths, widths[1:])):
            shapes.update({f"W{n}": (n_in, n_out), f"b{n}": (n_out,)})
        shapes.update(dict.fromkeys(["gain", "shift", "mean", "var"], (widths[1],)))
        shapes.update({"expected": (i,), "bi": (i,), "M": (widths[-1] - 1, i)})
    return shapes


# The command line.

def write_whole(path, content):
    """Writes a file beside path, then renames it: a reader finds the old file or the new one, whole.

    content: text, or a function that writes to a binary file. Raises DataError when that cannot be done.
    """
    path = os.path.realpath(path)
    part = os.path.join(os.path.dirname(path), f".{os.urandom(8).hex()}.part")
    try:
        with open(part, "wb") as file:
            file.write(content.encode(errors="replace")) if isinstance(content, str) else content(file)
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; make room or name another file") from error
    finally:
        if os.path.exists(part):
            os.remove(part)


def train(options):
    """The command: trains on all ratings of a data set and keeps what serving needs."""
    from data import output_path
    from experiments import keep
    keep(output_path(options.out, options.dataset, os.path.join(options.data_dir, options.dataset)), options)


def recommend(options):
    """The command: prints the best items for one user."""
    from data import read_ratings, read_side, shown
    model = Recommender.load(options.model)
    side = read_side(model, {kind: getattr(options, kind) for kind in ("age", "gender", "occupation")})
    best = model.recommend(*read_ratings(model, options.rate, options.ratings), side, options.n)
    print(shown(model, *best, options.json))


def score(options):
    """The command: the best items of every user of a CSV, none of whom need be known, to a CSV user,item,rating."""
    from data import output_path, scored
    out = output_path(options.out, options.ratings, options.model)
    model = Recommender.load(options.model)
    write_whole(out, lambda file: file.writelines(scored(model, options.ratings, options.n)))


def export(options):
    """The command: folded inference as plain arrays, a manifest and test vectors, for a port to another language."""
    from data import export_model
    export_model(Recommender.load(options.model), options.out)


def parse(argv):
    """The options of a command; exits with code 2 and one line when they make no sense."""
    from data import Parser, whole
    parser = Parser(prog="lfg.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="{train,recommend,score,export}")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", required=True, metavar="FILE", help="what train wrote")

    def command(run, *parents):
        what = run.__doc__.partition(": ")[2]
        added = commands.add_parser(run.__name__, help=what, description=what, parents=parents)
        added.set_defaults(run=run)
        return added.add_argument

    add = command(train)
    add("--dataset", default="ml-100k", help="ml-100k, ml-1m, synthetic, or a path, as in experiments.py")
    add("--data-dir", default=os.environ.get("LFG_DATA") or "data", help="where ml-100k and ml-1m lie; also LFG_DATA")
    add("--out", required=True, metavar="FILE", help="the model, an .npz file; replaced when it exists")
    add("--generator", default="dual", choices=["user", "item", "dual"],
        help="what is generated: factors of users (the paper's LFG), of items, or both (the default)")
    add("--half", action="store_true", help="store float16: half the size")
    add("--seed", type=whole(0, 2 ** 63), default=0)
    add("--seeds", type=whole(1, 1000), help="runs of the item side")
    add("--epochs", type=whole(1), help="of each network")
    add("--factors", type=whole(1), help="of each network")
    add("--quiet", action="store_true", help="no progress on stderr")

    add = command(recommend, model)
    add("--rate", action="append", default=[], metavar="TITLE=RATING", help='"Heat=2" or "id:54=5"; one --rate an item')
    add("--ratings", metavar="FILE", help="a CSV with a title or id:ID and a rating in each line; - is standard input")
    add("--age", type=whole(0, 150), help="in years")
    add("--gender", help="F or M in MovieLens")
    add("--occupation", help="as in the data the model was trained on")
    add("-n", type=whole(1), default=10, help="how many")
    add("--json", action="store_true", help="print JSON")

    add = command(score, model)
    add("--ratings", required=True, metavar="FILE", help="a CSV that names user, item and rating; - is standard input")
    add("--out", required=True, metavar="FILE", help="a CSV of user, item, rating; replaced when it exists")
    add("-n", type=whole(1), default=10, help="items a user")

    add = command(export, model)
    add("--out", required=True, metavar="DIR", help="a folder that is not there yet, or empty")
    return parser.parse_args(argv)


def main(argv=None):
    """Runs a command; its exit code, as data.guarded has it."""
    from data import guarded
    def work():
        options = parse(argv)
        options.run(options)
    return guarded("lfg.py", work, "interrupted; what it writes is as it was, or whole")


if __name__ == "__main__":
    import data
    import lfg  # so that its classes are the ones that experiments.py knows
    data.command(lfg.main)
