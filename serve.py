"""Train, save and serve models: `Recommender`, and at the end the commands of `python lfg.py`."""

import argparse
import difflib
import json
import os
import re
import sys
import unicodedata
from importlib.util import find_spec

import numpy as np

from data import AGES, RATED, DataError, csv_records, factorize, id_text, labelled, load
from data import output_path, read_ratings, sample_users, to_dataset, write_whole
from lfg import LFGDual, LFGRank
from settings import SIZES, Models, fit_all, settings_for
from svd import like_threshold

FORMAT = 6                                                 # of the model file
ARTICLES = "the|a|an|la|le|les|l'|il|lo|el|los|las|der|die|das"         # as in "Matrix, The"


class Recommender:
    """A trained LFG-rank, which orders lists, and LFG-dual, which predicts ratings, for any user.

    >>> import pandas as pd
    >>> from serve import Recommender
    >>> table = pd.DataFrame({"user": [1, 1, 2, 2], "item": ["Alien", "Heat", "Alien", "Fargo"],
    ...                       "rating": [5, 2.5, 4, 3]})
    >>> model = Recommender.train(table, epochs=2, seeds=1)
    >>> model.recommend({"Heat": 4.5, "Alien": 3}, n=1)["item"].tolist()
    ['Fargo']

    No call changes the model: threads can share one. Wrong arguments raise DataError. `arrays` is
    all that inference reads, by name, and what `save` and `lfg.py export` write. Loading and
    recommending need NumPy alone.
    """

    def __init__(self, arrays):
        self.arrays = {name: a.astype(np.float32) if a.dtype == np.float16 else a
                       for name, a in arrays.items()}
        self.item_ids = arrays["item_ids"]
        self.titles = arrays["titles"]
        self.rated = arrays["rated"]                       # (items,): rated by anyone in training
        self.E_names = arrays["E_names"].tolist()          # columns of a profile, "gender=F"
        self.E_mean = self.arrays["E_mean"]
        rank = {name[5:]: a for name, a in self.arrays.items() if name.startswith("rank_")}
        self.models = {"rank": LFGRank.from_arrays(rank),
                       "rating": LFGDual.from_arrays(self.arrays)}
        self.low, self.high = arrays["scale"].tolist()
        self.index_of_id = {str(name): n for n, name in enumerate(self.item_ids.tolist())}
        self.found_by = {}                                 # {plain title: indices}, for find
        for n, title in enumerate(self.titles.tolist()):
            plain = plain_title(title)[0]
            for name in (plain, plain.partition(" (")[0]):
                self.found_by.setdefault(name, []).append(n)

    @classmethod
    def train(cls, ratings, users=None, items=None, *, columns=None, generator="dual", epochs=None,
              factors=None, seeds=None, seed=0, quiet=False, jobs=1, sample=None):
        """A Recommender trained on a DataFrame with the columns user (or userId), item and rating.

        users: user and any columns of categories, such as gender or age; users who are missing from
        it get the mean profile. items: item and any of title, genres ("Comedy|Drama") and year.
        columns: new names for the columns of ratings, {"customer": "user"}. generator: "user"
        trains the networks that generate users, "item" those that generate items, "dual" both.
        epochs, factors: of each network; seeds: number of item networks to join, for ratings and
        for lists. The defaults depend on the size of the data, but seeds is 1 for "item". seed: of
        random numbers. quiet: no progress bar. jobs: processes that train at once; above 1, set
        OPENBLAS_NUM_THREADS=1, and a script must work under `if __name__ == "__main__":`.
        sample: train on this many random users; the model still serves any user.
        """
        if columns and not hasattr(columns, "items"):
            raise DataError('columns must be a dict such as {"customer": "user"}')
        check_count("seed", seed, 0)
        check_count("jobs", jobs)
        for name, n in dict(epochs=epochs, factors=factors, seeds=seeds, sample=sample).items():
            if n is not None:
                check_count(name, n)
        data = to_dataset("ratings", ratings, users, items, columns)
        return train_model(data, generator, epochs, factors, seeds, seed, quiet, jobs, sample)

    @classmethod
    def from_model(cls, model, rank, data, R, sigma2=1.0, scale=None):
        """The Recommender for an LFGDual and an LFGRank, fitted on R, ratings of a Dataset.

        sigma2: as settings.Noise finds it. scale: lowest and highest rating, if not those of R.
        """
        numbers = {"E_mean": data.E[R.counts > 0].mean(0), **model.serving_arrays(),
                   "sigma2": sigma2, "scale": scale or [R.values.min(), R.values.max()]}
        numbers.update((f"rank_{name}", a) for name, a in rank.serving_arrays().items())
        return cls({**{name: np.asarray(a, np.float32) for name, a in numbers.items()},
                    "format": np.array(FORMAT), "item_ids": data.item_ids, "years": data.years,
                    "titles": np.array(data.titles), "genres": np.array(data.genres),
                    "E_names": np.array(data.E_names, str),
                    "rated": np.bincount(R.items, minlength=R.shape[1]) > 0})

    def recommend(self, ratings, n=10, profile=None, by="rank", genre=None, years=None,
                  as_frame=True):
        """The n items that a user is likeliest to like, among those rated in training.

        ratings: {id or title: rating} of the user, who may be new; the items they have rated are
        left out. profile: such as {"age": 25, "gender": "F"}; what is missing counts as average.
        by: "rank" orders by LFG-rank, "rating" by the predicted rating. genre: only items of it;
        years: only items of these years, "1980-1999" or "1995". Returns a DataFrame with item,
        title, score (what the list is ordered by), predicted rating, spread (its standard
        deviation) and because: at most three of the rated items that speak most for this one, each
        {"id", "title", "contribution"}; a list of dicts if not as_frame, or if pandas is missing.
        """
        items, values = self.indices(ratings)
        best = self.best(items, values, self.profile_row(profile), n, by,
                         self.among(genre, years), why=True)
        rows = []
        for i, score, rating, spread, shares in zip(*best):
            most = [j for j in np.argsort(-shares)[:3] if shares[j] > 0]
            because = [{"id": str(self.item_ids[items[j]]), "title": str(self.titles[items[j]]),
                        "contribution": float(shares[j])} for j in most]
            rows.append((self.item_ids[i].item(), str(self.titles[i]), float(score), float(rating),
                         float(spread), because))
        return frame(rows, ["item", "title", "score", "rating", "spread", "because"], as_frame)

    def predict(self, ratings, items, profile=None):
        """Predicted ratings (n,), within the scale, of a list of items, or one, by id or title."""
        is_one = isinstance(items, str) or not hasattr(items, "__iter__")
        asked = [self.find(item) for item in ([items] if is_one else items)]
        scores = self.scores(*self.indices(ratings), self.profile_row(profile))
        return np.clip(scores[asked], self.low, self.high)

    def explain(self, ratings, item, profile=None, by="rank"):
        """Why an item has its score, or with by="rating" its predicted rating, not clipped.

        Returns ({item rated: contribution}, rest), which add up to it. Only likes contribute to a
        score. To a predicted rating, every rating contributes points, by how far it is from what is
        usual for its item. rest: what the item itself, the prior and the user network add.
        """
        items, values = self.indices(ratings)
        index = self.find(item)
        model = self.model(by)
        _, parts, scores = model.serve(items, values, self.profile_row(profile))
        shares, = model.shares(items, values, [index], parts)
        return dict(zip(ratings.keys(), shares.tolist())), float(scores[index] - shares.sum())

    def similar(self, item, n=10, as_frame=True):
        """The n items most similar to one, given by id or title.

        Returns, as recommend does, item, title, similarity and genres. Similarity is the cosine of
        the factors that are generated to order lists. Raises DataError.
        """
        check_count("n", n)
        index = self.find(item)
        if not self.models["rank"].solved:
            raise DataError("the model generates no items; train one with generator item or dual")
        part, = self.models["rank"].solved
        q = part.q1 @ part.generated.T
        q /= np.maximum(np.linalg.norm(q, axis=1, keepdims=True), 1e-12)
        cosines = q @ q[index]
        found = np.flatnonzero(self.rated & (np.arange(len(q)) != index))
        found = found[np.argsort(-cosines[found], kind="stable")[:n]]
        rows = [(self.item_ids[i].item(), str(self.titles[i]), float(cosines[i]),
                 str(self.arrays["genres"][i])) for i in found]
        return frame(rows, ["item", "title", "similarity", "genres"], as_frame)

    def best(self, items, values, profile, n, by="rank", among=None, why=False):
        """Indices, scores and predicted ratings (n,) of the best items; arguments as in scores.

        by: as in recommend. among: True for the items that may be in the list (n_items,). why: also
        give the spreads (n,) and the shares (n, len(items)) that the rated items have in scores.
        """
        check_count("n", n)
        model = self.model(by)
        rows, parts, scores = model.serve(items, values, profile)
        candidate = self.rated.copy() if among is None else self.rated & among
        candidate[items] = False
        found = np.flatnonzero(candidate)
        if n < len(found):
            found = found[scores[found] >= np.partition(scores[found], -n)[-n]]
        found = found[np.argsort(-scores[found], kind="stable")[:n]]
        ratings = scores[found]
        if by == "rank":                                   # ratings of these items alone
            rows, _, ratings = self.models["rating"].serve(items, values, profile, found)
        listed = found, scores[found], np.clip(ratings, self.low, self.high)
        if why:
            listed += (self.spreads(items, values, rows, found),
                       model.shares(items, values, found, parts))
        return listed

    def spreads(self, items, values, rows, asked):
        """Standard deviations (m,) of ratings of items asked (m,); rows: as from LFGDual.serve."""
        last = self.models["rating"].parts[-1]             # the solved one, if there is one
        a, b = last.variance(items, values, rows[-1], asked)
        return np.sqrt(a * self.arrays["sigma2"] + b)

    def model(self, by):
        """The model that orders a list by "rank" or by "rating". Raises DataError."""
        if by not in [*self.models]:                       # a list, say, cannot be hashed
            raise DataError(f"by is {by!r}; it must be rank or rating")
        return self.models[by]

    def among(self, genre=None, years=None):
        """True for each item (n_items,) of a genre and of years such as "1980-1999", if given."""
        found = np.ones(len(self.item_ids), bool)
        if genre is not None:
            genres = self.arrays["genres"].tolist()
            wanted = str(genre).casefold()
            found = np.array([wanted in text.casefold().split("|") for text in genres])
            if not (wanted and found.any()):
                known = ", ".join(sorted({*"|".join(genres).split("|")} - {""})) or "none"
                raise DataError(f"genre {genre!r:.100} is unknown; choose from {known}")
        if years is not None:
            span = re.fullmatch("([1-9][0-9]{3})(?:-([0-9]{4}))?", str(years).strip())
            first, last = span.groups(span[1]) if span else ("1", "0")
            if first > last:
                raise DataError(f"years {years!r}: must be like 1980-1999 or 1995")
            found &= (int(first) <= self.arrays["years"]) & (self.arrays["years"] <= int(last))
        return found

    def scores(self, items, values, profile):
        """Predicted ratings of all items (n_items,), not clipped: LFGDual.scores for one user.

        items: indices (n,) into item_ids, each once; values: ratings (n,), float32; profile: a row
        of E, for example E_mean. Nothing is checked: this is the fast way for a server.
        """
        return self.models["rating"].serve(items, values, profile)[-1]

    def ranks(self, items, values, profile):
        """Scores of all items (n_items,) to order a list by: LFGRank.scores for one user."""
        return self.models["rank"].serve(items, values, profile)[-1]

    def indices(self, ratings):
        """Indices (n,) and ratings (n,) of {id or title: rating}. Raises DataError.

        Or of an iterator of rows (where, id or title, rating); errors begin with the row's where.
        """
        if hasattr(ratings, "items") and getattr(ratings, "ndim", 1) == 1:     # no DataFrame
            ratings = [(f"ratings[{item!r:.100}]", item, value) for item, value in ratings.items()]
        elif not hasattr(ratings, "__next__"):             # rows come from an iterator
            raise DataError("ratings must be a dict {id or title: rating}")
        rated = {}
        for where, item, rating in ratings:
            try:
                index = self.find(item)
                if index in rated:
                    raise DataError(f"{self.titles[index]} is rated twice")
                rated[index] = self.check_rating(rating)
            except DataError as error:
                raise DataError(f"{where}: {error}") from error
        return np.array(list(rated), np.intp), np.array(list(rated.values()), np.float32)

    def check_rating(self, rating):
        """The rating, a number or text, as a float. Raises DataError unless it is on the scale."""
        try:
            value = float(str(rating))                     # float(True) would be 1.0
        except ValueError as error:
            raise DataError(f"rating {rating!r:.100} is not a number") from error
        if not self.low <= np.float32(min(max(value, -1e10), 1e10)) <= self.high:
            raise DataError(f"rating {value:.12g} must be between {self.low:g} and {self.high:g}")
        return value

    def profile_row(self, profile):
        """A row of E (columns,) of a profile such as {"age": 25}; average where it says nothing."""
        row = self.E_mean.copy()
        if profile is not None and not hasattr(profile, "items"):
            raise DataError('profile must be a dict such as {"age": 25}')
        for column, value in ({} if profile is None else profile).items():
            if not id_text(value):
                continue
            wanted = f"{column}={id_text(value)}"
            if re.fullmatch(r"age=[0-9]{1,3}(\.[0-9]*)?", wanted):             # no year of birth
                wanted = f"age={max([a for a in AGES if a <= float(value)], default=AGES[0])}"
            group = [name for name in self.E_names if name.startswith(f"{column}=")]
            if wanted not in group:                        # perhaps the case differs
                wanted = next((one for one in group if one.casefold() == wanted.casefold()), None)
            if not wanted:
                known = group or dict.fromkeys(name.partition("=")[0] for name in self.E_names)
                known = [*known][:30] + ["..."] * (len(known) > 30)
                raise DataError(f"{column}={value}: not in the profiles that the model was "
                                f"trained with; choose from {', '.join(known) or 'none'}")
            for name in group:
                row[self.E_names.index(name)] = name == wanted
        return row

    def find(self, item):
        """Index of the item with this id, with or without "id:", or else with this title.

        Case, accents and articles do not matter, and the year, or words of the title, may be left
        out if only one item fits. Raises DataError, with the titles that fit or are nearest.
        """
        text = id_text(item)
        for name in (text, text.removeprefix("id:").strip()):
            if name in self.index_of_id:
                return self.index_of_id[name]
        wanted, year = plain_title(text)
        if not wanted:
            raise DataError(f"{text!r} is not a title or an id")
        found = [n for n in self.found_by.get(wanted, []) if year in self.titles[n]]
        if wanted not in self.found_by and not wanted.isdecimal():       # perhaps words of a title
            words = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
            found = [n for name, rows in self.found_by.items() if words.search(name) for n in rows
                     if year in self.titles[n] and self.titles[n] != str(self.item_ids[n])]
        found = [n for n in found if self.titles[n] == text] or found                    # exact
        if len(set(found)) == 1:
            return found[0]
        problem = "fits several items; add the year, or use the id: "
        if not found:
            near = difflib.get_close_matches(wanted, self.found_by, n=5, cutoff=0.5)
            found = [n for name in near for n in self.found_by[name]]
            problem = "is not the id or title of an item; "
            problem += "the nearest are: " if found else "check its spelling"
        shown = [f"{self.titles[n]} (id {self.item_ids[n]})" for n in dict.fromkeys(found)][:5]
        raise DataError(f"{text[:100]!r} {problem}{', '.join(shown)}")

    def save(self, path, half=False):
        """Write the model to an .npz file; half: as float16 where it suits. Raises DataError."""
        halves = {name: a.astype(np.float16) for name, a in self.arrays.items()
                  if half and a.ndim == 2 and 1e-3 < np.abs(a).max(initial=0) < 65504}  # its range
        write_whole(output_path(path), lambda part: np.savez(part, **{**self.arrays, **halves}))

    @classmethod
    def load(cls, path):
        """The model in a file that save wrote. Raises DataError when it is not one, or damaged."""
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                model = cls({name: file[name] for name in file.files})
            model.check()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}; lfg.py train makes one") from error
        except MemoryError:
            raise
        except Exception as error:                         # whatever a wrong array leads to
            raise DataError(f"{path}: not a model file of format {FORMAT}, or damaged; train it "
                            "again") from error
        return model

    @np.errstate(all="ignore")
    def check(self):
        """Raise an error unless the arrays fit together and give finite ratings."""
        a = self.arrays
        n = len(self.item_ids)
        users = [(np.arange(size), np.full(size, self.high, np.float32), self.E_mean)
                 for size in (0, 1, n)]                    # the last reads all rows
        found = [part for by in self.models for part in self.best(*users[1], n, by, why=True)]
        found += [answer(*user) for user in users for answer in (self.scores, self.ranks)]
        found += [part.q1 @ part.generated.T for part in self.models["rank"].solved]
        if not (a["format"] == FORMAT and self.low <= self.high
                and len(self.E_names) == len(self.E_mean)
                and all(len(a[name]) == n for name in ("titles", "genres", "years", "rated"))
                and all(np.abs(x).max(initial=0) < 1e10 for x in (*a.values(), *found)
                        if x.dtype.kind == "f" and x is not a["sigma2"])):       # a square
            raise ValueError("arrays do not fit together")


def check_count(name, n, least=1):
    """Raise DataError unless n is a whole number, not below least."""
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < least:
        raise DataError(f"{name} is {n!r}; it must be a whole number above {least - 1}")


def frame(rows, columns, as_frame=True):
    """A DataFrame of tuples; a list of dicts if not as_frame, or where pandas is missing."""
    if as_frame and find_spec("pandas"):
        import pandas as pd
        return pd.DataFrame(rows, columns=columns)
    return [dict(zip(columns, row)) for row in rows]


def plain_title(title):
    """("matrix", "(1999)") of "Matrix, The (1999)": without case, accents, article; the year."""
    text = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", title.casefold()))
    text = " ".join(text.split())
    text, year = re.fullmatch(r"(.*?) ?(\([0-9]{4}\))?", text).groups(default="")
    # "the matrix" and "matrix, the" are both "matrix"
    return re.sub(rf"^({ARTICLES}) |^l' ?|,? ({ARTICLES})(?=$| \()", "", text), year


def train_model(data, generator, epochs, factors, seeds, seed, quiet, jobs, sample):
    """The Recommender for a Dataset, as Recommender.train; unless quiet, prints how it went."""
    if generator not in ("user", "item", "dual"):
        raise DataError(f"generator is {generator!r}; it must be user, item or dual")
    scale = [data.ratings.values.min(), data.ratings.values.max()]
    users = np.count_nonzero(data.ratings.counts)
    data = sample_users(data, sample or users, seed)
    n = len(data.ratings)
    if not quiet:
        print(summary(data, users, *scale), file=sys.stderr)
    seeds = seeds or (1 if generator == "item" else None)
    models = Models(data.ratings, data)
    model, rank = (models.add(name, settings_for(n, test, seeds), seed, generator=generator)
                   for name, test in (("LFG-dual", "coldstart"), ("LFG-rank", "coldstart topn")))
    share = max(0.25, min(1, SIZES["ml-1m"] / n))          # an epoch of larger data has more steps
    for part in models.trained.values():
        part.epochs = epochs or round(share * part.epochs)
        part.n_factors = factors or part.n_factors
    noise = models.add_noise(model)                        # how far predictions are off
    list(fit_all([models], jobs, quiet))
    if not quiet:
        some = sample_users(data, 10_000, seed)
        print(f"training RMSE {rmse_of(model, [some.ratings] * 3, some.E):.4f}", file=sys.stderr)
    return Recommender.from_model(model, rank, data, data.ratings, noise.sigma2, scale)


def summary(data, users, low, high):
    """What a model is trained on, as text; users: how many have rated, in this sample or not."""
    R = data.ratings
    likes = np.mean(R.values >= like_threshold(R.values))
    columns = [", ".join(dict.fromkeys(name.partition("=")[0] for name in names)) or "nothing"
               for names in (data.E_names, data.F_names)]
    return (f"training on {np.count_nonzero(R.counts)} of {users} users, {len(R)} ratings from "
            f"{low:g} to {high:g}, {likes:.1%} likes\n"
            "known about users: {}; about items: {}".format(*columns))


def rmse_of(model, case, E):
    """RMSE on the target of a Split, predictions clipped to the scale seen in training."""
    train_part, profile, target = case
    predicted = model.predict(target.users, target.items, profile, E)
    error = predicted.clip(train_part.values.min(), train_part.values.max()) - target.values
    return float(np.sqrt(np.mean(error ** 2, dtype=np.float64)))


# The commands of python lfg.py


def train(options):
    """Train a model on all ratings of a data set and save it to a file."""
    out = output_path(options.out, options.dataset, os.path.join(options.data_dir, options.dataset))
    data = load(options.dataset, options.data_dir, options.seed, not options.quiet, options.columns)
    model = train_model(data, options.generator, options.epochs, options.factors, options.seeds,
                        options.seed, options.quiet, options.jobs, options.sample)
    model.save(out, options.half)
    print(f"{options.out}: {os.path.getsize(out) / 1e6:.1f} MB", file=sys.stderr)


def recommend(options):
    """Print the best items for one user."""
    model = Recommender.load(options.model)
    profile = {name: getattr(options, name) for name in ("age", "gender", "occupation")}
    rows = model.recommend(rated_rows(options.rate, options.ratings), options.n, profile,
                           options.by, options.genre, options.years, as_frame=False)
    rows = [{"rank": rank, "id": str(row.pop("item")), **row} for rank, row in enumerate(rows, 1)]
    print_rows(rows, options.json, "Rank  {title:{width}}  Score     Rating  Because",
               "{rank:>4}  {title:{width}}  {score:>5.2f}  {rating:.1f} ± {spread:.1f}  {because}")


def similar(options):
    """Print the items most similar to one."""
    rows = Recommender.load(options.model).similar(options.item, options.n, as_frame=False)
    rows = [{"id": str(row.pop("item")), **row} for row in rows]
    print_rows(rows, options.json, "{title:{width}}  Similarity  Genres",
               "{title:{width}}  {similarity:>10.2f}  {genres}")


def print_rows(rows, as_json, header, line):
    """Print rows as JSON, floats with three decimals, or as a table of these formats."""
    if as_json:
        rows = json.loads(json.dumps(rows), parse_float=lambda text: round(float(text), 3))
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        print("no item is left to list", file=sys.stderr)
    width = max([5, *(len(row["title"]) for row in rows)])
    print(header.format(title="Title", width=width))
    for row in rows:
        row["because"] = ", ".join(one["title"] for one in row.get("because", []))
        print(line.format(**row, width=width))


def rated_rows(rates, path):
    """Rows (where, title or id, rating) of texts TITLE=RATING and of the lines of a CSV, if any."""
    lines = [] if path is None else csv_records(path)
    if not (path is None or lines):                        # perhaps of a pipe that failed
        raise DataError(f"{path}: no ratings; write a title or id and a rating on each line")
    if lines and lines[0][1][-1].strip().lower() == "rating":
        del lines[0]                                       # a header
    rows = [(f"--rate {text}", text.rsplit("=", 1)) for text in rates]
    for where, fields in rows + lines:
        if len(fields) != 2:
            raise DataError(f"{where}: must be TITLE=RATING or, in a CSV, TITLE,RATING; a title "
                            "with a comma in quotes")
        yield (where, *fields)


def score(options):
    """Write the best items for every user in a CSV file; users may be new."""
    out = output_path(options.out, options.ratings, options.model)
    model = Recommender.load(options.model)
    table = read_ratings(options.ratings, options.columns)
    table.index = [f"{options.ratings}, line {line}" for line in table.index]
    among = model.among(options.genre, options.years)
    scored = score_users(table, model, options.n, options.by, among)
    if scored.empty:
        print("no item is left to list", file=sys.stderr)
    write_whole(out, scored.to_csv(index=False, float_format="%.4f", lineterminator="\n"))


def score_users(table, model, n=10, by="rank", among=None):
    """The n best items for each user in a table of ratings: a DataFrame user, item, rating, score.

    table: user (or userId, user_id), item (id or title) and rating, in any order of rows; an error
    message names the index of its row. Users come in the order of their ids. The other arguments
    are those of best.
    """
    found = []
    table = labelled("ratings", table, RATED)
    codes, users = factorize(table, "ratings", "user")
    table = table.assign(user=users[codes])
    table = table.sort_values("item", key=lambda item: item.astype(str))      # for the same sums
    for user, rows in table.groupby("user"):
        rated = model.indices(zip(rows.index, rows["item"], rows["rating"]))
        best = model.best(*rated, model.E_mean, n, by, among)
        found += [(user, model.item_ids[i].item(), float(rating), float(score))
                  for i, score, rating in zip(*best)]
    return frame(found, [*RATED, "score"])


def export(options):
    """Write a model as plain arrays, a manifest and test vectors, for a port to any language."""
    model = Recommender.load(options.model)
    a = model.arrays
    layout = []
    weights = bytearray()
    for name, array in a.items():
        if array.dtype == np.float32:
            layout.append({"name": name, "shape": array.shape, "offset": len(weights)})
            weights += array.astype("<f4").tobytes()
    columns = [a[name].tolist() for name in ("item_ids", "titles", "genres", "years", "rated")]
    manifest = {
        "format": FORMAT, "file": "weights.bin",
        "type": "float32, little-endian, last index fastest", "arrays": layout,
        "layers": len([name for name in a if re.fullmatch("W[0-9]+", name)]),
        "rank_layers": len([name for name in a if re.fullmatch("rank_W[0-9]+", name)]),
        "slope": 0.01, "E_names": model.E_names,
        "items": frame(zip(*columns), ["id", "title", "genres", "year", "rated"], as_frame=False)}

    def write(folder):
        """Write the three files."""
        folder.mkdir()
        (folder / "weights.bin").write_bytes(weights)
        for name, content in [("manifest", manifest), ("vectors", [*vectors(model)])]:
            text = json.dumps(content, indent=1, ensure_ascii=False, default=np.ndarray.tolist)
            (folder / f"{name}.json").write_text(text, encoding="utf-8")
    write_whole(options.out, write, "a new or empty folder")


def vectors(model):
    """Yield inputs of 20 made-up users, with no ratings to many, and the results of inference."""
    rng = np.random.default_rng(0)
    n_items = len(model.item_ids)
    for size in [0, 1, 2] + rng.integers(3, max(4, min(300, n_items)), 17).tolist():
        items = rng.choice(n_items, min(size, n_items), replace=False)
        values = rng.choice(np.linspace(model.low, model.high, 41, dtype=np.float32), len(items))
        profile = (rng.random(len(model.E_mean)) < 0.1).astype(np.float32) if size else model.E_mean
        asked = rng.choice(n_items, 5).tolist()
        one = {"items": items, "ratings": values, "profile": profile}
        for by, prefix, name, shares in (("rating", "", "predictions", "rating_shares"),
                                         ("rank", "rank_", "scores", "score_shares")):
            part = model.models[by]
            rows, parts, scores = part.serve(items, values, profile)
            one[f"{prefix}generated"] = rows[0] if part.forward else []
            one[f"{prefix}solved"] = rows[-1] if part.solved else []
            one[name] = [[i, float(scores[i])] for i in asked]
            one[shares] = part.shares(items, values, asked, parts)
            if by == "rating":
                one["spreads"] = model.spreads(items, values, rows, asked)
        yield one


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and whose options are not to be shortened."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see --help\n")


def integer(text, low=1, high=2 ** 32 - 1):
    """A type for argparse: a whole number from low to high."""
    if text.isdecimal() and low <= int(text) <= high:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from {low} to {high}")


def column_names(text):
    """A type for argparse: "user=customer,item=film" -> {"customer": "user", "film": "item"}."""
    pairs = [pair.split("=") for pair in text.split(",")]
    columns = {pair[-1].strip(): pair[0].strip() for pair in pairs}
    if {len(pair) for pair in pairs} != {2} or len({*columns.values()} & {*RATED}) < len(pairs):
        raise argparse.ArgumentTypeError(f"{text!r} must be like user=A,item=B,rating=C")
    return columns


def add_shared_options(add):
    """Options of both commands that train; add: a parser's add_argument."""
    add("--dataset", default="ml-100k", metavar="{ml-100k,ml-1m,synthetic,PATH}",
        help="the data; PATH: a CSV whose first line names user, item and rating, or a folder like "
             "GroupLens' or RecBole's; synthetic:USERSxITEMSxRATINGS makes data of that size; "
             "for experiments.py, all means both ml-100k and ml-1m")
    add("--data-dir", default=os.environ.get("LFG_DATA") or "data", metavar="DIR",
        help="folder with ml-100k and ml-1m, downloaded if missing; LFG_DATA sets the default")
    add("--columns", type=column_names, metavar="user=A,item=B,rating=C", help="names in your CSV")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    add("--jobs", type=integer, default=cores or 1, help="training processes; default: all cores")
    add("--seed", type=lambda text: integer(text, 0), default=0, help="seed of random numbers")
    add("--seeds", type=integer, help="item networks that LFG-dual and LFG-rank "
        "join; if not given, 5 and 3 on ML-100k, 4 and 2 on ML-1m; 1 with --generator item")
    add("--quiet", action="store_true", help="no progress on stderr")


def parse(argv):
    """The options of a command; exits with code 2 and one line when they make no sense."""
    parser = Parser(prog="lfg.py", description="LFG, latent factor generator: train a model, and "
                                               "recommend to users that it has never seen.")
    choices = parser.add_subparsers(required=True, metavar="{train,recommend,similar,score,export}")
    parsers = {}
    for run in (train, recommend, similar, score, export):
        parsers[run] = choices.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        parsers[run].set_defaults(run=run)

    def add(name, text, *runs, **more):
        """Add an option, with a text for --help, to some of the commands."""
        for run in runs:
            parsers[run].add_argument(name, help=text, **more)

    add("--model", "saved model", recommend, similar, score, export, required=True, metavar="FILE")
    add("--out", "an .npz file, replaced if present", train, required=True, metavar="PATH")
    add("--out", "a CSV file, replaced if present", score, required=True, metavar="PATH")
    add("--out", "an empty folder", export, required=True, metavar="PATH")
    add("item", "its title or id", similar, metavar="ITEM")
    add("--rate", '"Heat=2" or "id:54=5"; once for each item', recommend, action="append",
        default=[], metavar="TITLE=RATING")
    add("--ratings", "a CSV of titles or ids and ratings; - is stdin", recommend, metavar="FILE")
    add("--ratings", "a CSV whose first line names user, item and rating; - is stdin", score,
        required=True, metavar="FILE")
    add("--columns", "names in the CSV", score, type=column_names, metavar="user=A,item=B,rating=C")
    add("--age", "in years", recommend, type=lambda text: integer(text, 0))
    add("--gender", "F or M in MovieLens", recommend)
    add("--occupation", "one of those in the training data", recommend)
    add("-n", "length of the list", recommend, similar, score, type=integer, default=10)
    add("--by", "the order: what the user is likeliest to like (default), or the predicted rating",
        recommend, score, default="rank", choices=["rank", "rating"])
    add("--genre", "only items of this genre", recommend, score)
    add("--years", "only items of these years", recommend, score, metavar="1980-1999")
    add("--json", "print JSON", recommend, similar, action="store_true")
    add_shared_options(parsers[train].add_argument)
    add("--generator", "what is generated: users, as in the paper, items, or both (default)", train,
        default="dual", choices=["user", "item", "dual"])
    add("--half", "store float16: half the size", train, action="store_true")
    add("--epochs", "training epochs of each network", train, type=integer)
    add("--factors", "number of latent factors of each network", train, type=integer)
    add("--sample", "train on N random users, serve any user", train, type=integer, metavar="N")
    return parser.parse_args(argv)


def run_command(name, run, argv, interrupted):
    """Run a command, exit: 0, 1 if nobody reads the output, 2 after a mistake, 130 after Ctrl-C."""
    code = 2
    sys.stderr = sys.stderr or open(os.devnull, "w")       # None where it is closed
    try:
        if sys.stdout:                                     # None, too
            sys.stdout.reconfigure(errors="replace")       # a terminal without Greek shows "?"
        run(argv)
        print(end="", flush=True)
        sys.exit(0)
    except BrokenPipeError:                                # so nothing is flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (DataError, FloatingPointError, MemoryError, OSError) as error:
        problem = str(error) or "memory ran out"
    except ModuleNotFoundError as error:
        problem = f"{error.name} is missing; pip install -r requirements.txt"
    except KeyboardInterrupt:
        problem, code = interrupted, 130
    print(f"{name}: {problem}", file=sys.stderr)
    sys.exit(code)


def main(argv=None):
    """Run a command line of lfg.py."""
    options = parse(argv)
    run_command("lfg.py", options.run, options, "interrupted; no output file was changed")
